// AdaBelief: the twin of refoptim/optimizers/adabelief.py.
#include "harness/cautious.cuh"
#include "harness/multi_tensor.cuh"
#include "harness/scalars.cuh"

namespace refoptim {

struct AdaBelief : NoRegisters {
    struct Hypers {
        double lr, betas[2], eps, weight_decay, amsgrad, weight_decouple, fixed_decay, rectify, degenerated_to_sgd;
    };

    template <class T> struct Record {
        T weight_decay, decoupled, shrink, beta1, one_minus_beta1, beta2, one_minus_beta2, eps, amsgrad;
        T root_correction2, rectify, rectified, degenerated, step_size;
    };

    FLAGS(FLAG(weight_decay), FLAG(decoupled), FLAG_OF(2, amsgrad), FLAG(rectify));
    USUAL(MOSTLY(rectified));

    // The factor that keeps the variance of the step what it would be at n_max, corrected for the start.
    __device__ static double rectification(double n, double n_max, double power2) {
        return power((1 - power2) * (n - 4) / (n_max - 4) * (n - 2) / n * n_max / (n_max - 2), 0.5);
    }

    template <class R> __device__ static Record<double> scalars(const Hypers& h, double k, const Registers<R>&) {
        double beta1 = h.betas[0], beta2 = h.betas[1];
        double power1 = power(beta1, k), power2 = power(beta2, k);
        double n_max = 2 / (1 - beta2) - 1;
        double n = n_max - 2 * k * power2 / (1 - power2);
        double rate = h.fixed_decay ? 1 : h.lr;
        double size = n >= 5 ? rectification(n, n_max, power2) / (1 - power1) : 1 / (1 - power1);
        return {
            .weight_decay = h.weight_decay,
            .decoupled = h.weight_decouple,
            .shrink = 1 - rate * h.weight_decay,
            .beta1 = beta1,
            .one_minus_beta1 = 1 - beta1,
            .beta2 = beta2,
            .one_minus_beta2 = 1 - beta2,
            .eps = h.eps,
            .amsgrad = h.amsgrad,
            .root_correction2 = power(1 - power2, 0.5),
            .rectify = h.rectify,
            .rectified = double(n >= 5),
            .degenerated = h.degenerated_to_sgd,
            .step_size = h.rectify ? -size * h.lr : -(h.lr / (1 - power1)),
        };
    }

    template <class R, class X>
    __device__ static void update(const R& s, X& p, X g, X& exp_avg, X& exp_avg_var, X& max_exp_avg_var) {
        if (s.weight_decay && s.decoupled)
            p = mul(p, s.shrink);
        else if (s.weight_decay)
            g = axpy(g, p, s.weight_decay);
        exp_avg = axpy(mul(exp_avg, s.beta1), g, s.one_minus_beta1);
        X r = sub(g, exp_avg);
        exp_avg_var = add(addcmul(mul(exp_avg_var, s.beta2), r, r, s.one_minus_beta2), s.eps);
        if (s.amsgrad)
            max_exp_avg_var = maximum(max_exp_avg_var, exp_avg_var);
        X u = masked(s, exp_avg, g);
        if (s.rectify && !s.rectified) {
            p = s.degenerated ? axpy(p, u, s.step_size) : p;
        } else {
            X denom = sqrt(s.amsgrad && !s.rectify ? max_exp_avg_var : exp_avg_var);
            denom = s.rectify ? denom : div(denom, s.root_correction2);
            p = addcdiv(p, u, add(denom, s.eps), s.step_size);
        }
    }
};

ENTRIES(adabelief, AdaBelief, 3)
CAUTIOUS(adabelief, AdaBelief, 3)
SCALARS(adabelief, AdaBelief)

}  // namespace refoptim
