// Lion: the twin of refoptim/optimizers/lion.py.
#include "harness/cautious.cuh"
#include "harness/multi_tensor.cuh"
#include "harness/scalars.cuh"

namespace refoptim {

struct Lion : NoRegisters {
    struct Hypers {
        double lr, betas[2], weight_decay;
    };

    template <class T> struct Record {
        T weight_decay, shrink, beta1, one_minus_beta1, beta2, one_minus_beta2, step_size;
    };

    FLAGS(FLAG(weight_decay));

    template <class R> __device__ static Record<double> scalars(const Hypers& h, double, const Registers<R>&) {
        double beta1 = h.betas[0], beta2 = h.betas[1];
        return {
            .weight_decay = h.weight_decay,
            .shrink = 1 - h.lr * h.weight_decay,
            .beta1 = beta1,
            .one_minus_beta1 = 1 - beta1,
            .beta2 = beta2,
            .one_minus_beta2 = 1 - beta2,
            .step_size = -h.lr,
        };
    }

    template <class R, class X> __device__ static void update(const R& s, X& p, X g, X& exp_avg) {
        if (s.weight_decay)
            p = mul(p, s.shrink);
        X mix = axpy(mul(exp_avg, s.beta1), g, s.one_minus_beta1);
        p = axpy(p, masked(s, sign(mix), g), s.step_size);
        exp_avg = axpy(mul(exp_avg, s.beta2), g, s.one_minus_beta2);
    }
};

ENTRIES(lion, Lion, 1)
CAUTIOUS(lion, Lion, 1)
SCALARS(lion, Lion)

}  // namespace refoptim
