// Yogi: the twin of refoptim/optimizers/yogi.py.
#include "harness/cautious.cuh"
#include "harness/multi_tensor.cuh"
#include "harness/scalars.cuh"

namespace refoptim {

struct Yogi : NoRegisters {
    struct Hypers {
        double lr, betas[2], eps, weight_decay, weight_decouple;
    };

    template <class T> struct Record {
        T weight_decay, decoupled, shrink, beta1, one_minus_beta1, beta2_minus_one;
        T root_correction2, eps, step_size;
    };

    FLAGS(FLAG(weight_decay), FLAG(decoupled));

    template <class R> __device__ static Record<double> scalars(const Hypers& h, double k, const Registers<R>&) {
        double beta1 = h.betas[0], beta2 = h.betas[1];
        return {
            .weight_decay = h.weight_decay,
            .decoupled = h.weight_decouple,
            .shrink = 1 - h.lr * h.weight_decay,
            .beta1 = beta1,
            .one_minus_beta1 = 1 - beta1,
            .beta2_minus_one = -(1 - beta2),
            .root_correction2 = power(1 - power(beta2, k), 0.5),
            .eps = h.eps,
            .step_size = -(h.lr / (1 - power(beta1, k))),
        };
    }

    template <class R, class X> __device__ static void update(const R& s, X& p, X g, X& exp_avg, X& exp_avg_sq) {
        if (s.weight_decay && s.decoupled)
            p = mul(p, s.shrink);
        else if (s.weight_decay)
            g = axpy(g, p, s.weight_decay);
        exp_avg = axpy(mul(exp_avg, s.beta1), g, s.one_minus_beta1);
        X square = mul(g, g);
        exp_avg_sq = addcmul(exp_avg_sq, sign(sub(exp_avg_sq, square)), square, s.beta2_minus_one);
        X denom = add(div(sqrt(exp_avg_sq), s.root_correction2), s.eps);
        p = addcdiv(p, masked(s, exp_avg, g), denom, s.step_size);
    }
};

ENTRIES(yogi, Yogi, 2)
CAUTIOUS(yogi, Yogi, 2)
SCALARS(yogi, Yogi)

}  // namespace refoptim
