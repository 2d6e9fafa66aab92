// Adam: the twin of refoptim/optimizers/adam.py.
#include "harness/cautious.cuh"
#include "harness/multi_tensor.cuh"
#include "harness/scalars.cuh"

namespace refoptim {

struct Adam : NoRegisters {
    struct Hypers {
        double lr, betas[2], eps, weight_decay, amsgrad, decoupled_weight_decay;
    };

    template <class T> struct Record {
        T weight_decay, decoupled, shrink, one_minus_beta1, beta2, one_minus_beta2;
        T amsgrad, root_correction2, eps, step_size;
    };

    FLAGS(FLAG(weight_decay), FLAG(decoupled), FLAG_OF(2, amsgrad));

    template <class R> __device__ static Record<double> scalars(const Hypers& h, double k, const Registers<R>&) {
        double beta1 = h.betas[0], beta2 = h.betas[1];
        return {
            .weight_decay = h.weight_decay,
            .decoupled = h.decoupled_weight_decay,
            .shrink = 1 - h.lr * h.weight_decay,
            .one_minus_beta1 = 1 - beta1,
            .beta2 = beta2,
            .one_minus_beta2 = 1 - beta2,
            .amsgrad = h.amsgrad,
            .root_correction2 = power(1 - power(beta2, k), 0.5),
            .eps = h.eps,
            .step_size = -(h.lr / (1 - power(beta1, k))),
        };
    }

    template <class R, class X>
    __device__ static void update(const R& s, X& p, X g, X& exp_avg, X& exp_avg_sq, X& max_exp_avg_sq) {
        if (s.weight_decay && s.decoupled)
            p = mul(p, s.shrink);
        else if (s.weight_decay)
            g = axpy(g, p, s.weight_decay);
        exp_avg = lerp(exp_avg, g, s.one_minus_beta1);
        exp_avg_sq = addcmul(mul(exp_avg_sq, s.beta2), g, g, s.one_minus_beta2);
        if (s.amsgrad)
            max_exp_avg_sq = maximum(max_exp_avg_sq, exp_avg_sq);
        X denom = sqrt(s.amsgrad ? max_exp_avg_sq : exp_avg_sq);
        denom = add(div(denom, s.root_correction2), s.eps);
        p = addcdiv(p, masked(s, exp_avg, g), denom, s.step_size);
    }
};

ENTRIES(adam, Adam, 3)
CAUTIOUS(adam, Adam, 3)
SCALARS(adam, Adam)

}  // namespace refoptim
