// AdEMAMix: the twin of refoptim/optimizers/ademamix.py.
#include "harness/cautious.cuh"
#include "harness/multi_tensor.cuh"
#include "harness/scalars.cuh"

namespace refoptim {

struct AdEMAMix : NoRegisters {
    struct Hypers {
        double lr, betas[3], alpha, eps, weight_decay, weight_decouple, t_alpha_beta3;
    };

    template <class T> struct Record {
        T l2, shrink, one_minus_beta1, beta2, one_minus_beta2, one_minus_beta3;
        T correction1, alpha, root_correction2, eps, step_size;
    };

    FLAGS(FLAG(l2));

    // Python's min.
    __device__ static double smaller(double x, double y) { return y < x ? y : x; }

    // The weight of the slow average in step k; NaN stands for no horizon.
    __device__ static double grown_alpha(double alpha, double horizon, double k) {
        return horizon != horizon ? alpha : smaller(k * alpha / horizon, alpha);
    }

    // The decay rate of the slow average in step k.
    __device__ static double grown_beta(double beta1, double beta3, double horizon, double k) {
        if (horizon != horizon)
            return beta3;
        double log1 = log(beta1), log3 = log(beta3);
        return smaller(exp(log1 * log3 / ((1.0 - k / horizon) * log3 + (k / horizon) * log1)), beta3);
    }

    template <class R> __device__ static Record<double> scalars(const Hypers& h, double k, const Registers<R>&) {
        double beta1 = h.betas[0], beta2 = h.betas[1], beta3 = h.betas[2];
        return {
            .l2 = h.weight_decouple ? 0.0 : h.weight_decay,
            .shrink = h.weight_decouple ? 1 - h.weight_decay * h.lr : 1.0,
            .one_minus_beta1 = 1 - beta1,
            .beta2 = beta2,
            .one_minus_beta2 = 1 - beta2,
            .one_minus_beta3 = 1 - grown_beta(beta1, beta3, h.t_alpha_beta3, k),
            .correction1 = 1 - power(beta1, k),
            .alpha = grown_alpha(h.alpha, h.t_alpha_beta3, k),
            .root_correction2 = power(1 - power(beta2, k), 0.5),
            .eps = h.eps,
            .step_size = -h.lr,
        };
    }

    template <class R, class X>
    __device__ static void update(const R& s, X& p, X g, X& exp_avg, X& exp_avg_sq, X& exp_avg_slow) {
        if (s.l2)
            g = axpy(g, p, s.l2);
        exp_avg_sq = addcmul(mul(exp_avg_sq, s.beta2), g, g, s.one_minus_beta2);
        X denom = add(div(sqrt(exp_avg_sq), s.root_correction2), s.eps);
        exp_avg = lerp(exp_avg, g, s.one_minus_beta1);
        exp_avg_slow = lerp(exp_avg_slow, g, s.one_minus_beta3);
        X mixed = axpy(div(masked(s, exp_avg, g), s.correction1), exp_avg_slow, s.alpha);
        p = addcdiv(mul(p, s.shrink), mixed, denom, s.step_size);
    }
};

ENTRIES(ademamix, AdEMAMix, 3)
CAUTIOUS(ademamix, AdEMAMix, 3)
SCALARS(ademamix, AdEMAMix)

}  // namespace refoptim
