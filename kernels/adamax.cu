// Adamax: the twin of refoptim/optimizers/adamax.py.
#include "harness/cautious.cuh"
#include "harness/multi_tensor.cuh"
#include "harness/scalars.cuh"

namespace refoptim {

struct Adamax : NoRegisters {
    struct Hypers {
        double lr, betas[2], eps, weight_decay;
    };

    template <class T> struct Record {
        T weight_decay, one_minus_beta1, beta2, eps, step_size;
    };

    FLAGS(FLAG(weight_decay));

    template <class R> __device__ static Record<double> scalars(const Hypers& h, double k, const Registers<R>&) {
        double beta1 = h.betas[0], beta2 = h.betas[1];
        return {
            .weight_decay = h.weight_decay,
            .one_minus_beta1 = 1 - beta1,
            .beta2 = beta2,
            .eps = h.eps,
            .step_size = -(h.lr / (1 - power(beta1, k))),
        };
    }

    template <class R, class X> __device__ static void update(const R& s, X& p, X g, X& exp_avg, X& exp_inf) {
        if (s.weight_decay)
            g = axpy(g, p, s.weight_decay);
        exp_avg = lerp(exp_avg, g, s.one_minus_beta1);
        exp_inf = maximum(mul(exp_inf, s.beta2), add(absolute(g), s.eps));
        p = addcdiv(p, masked(s, exp_avg, g), exp_inf, s.step_size);
    }
};

ENTRIES(adamax, Adamax, 2)
CAUTIOUS(adamax, Adamax, 2)
SCALARS(adamax, Adamax)

}  // namespace refoptim
