// Sophia: the twin of refoptim/optimizers/sophia.py.
#include "harness/multi_tensor.cuh"
#include "harness/scalars.cuh"

namespace refoptim {

struct Sophia : NoRegisters {
    static constexpr int ONLY_READ = 1;  // the estimate

    struct Hypers {
        double lr, betas[2], weight_decay, p, eps;
    };

    template <class T> struct Record {
        T weight_decay, shrink, one_minus_beta1, one_minus_beta2, eps, low, high, step_size, estimated;
    };

    FLAGS(FLAG(weight_decay), FLAG_OF(2, estimated));

    template <class R> __device__ static Record<double> scalars(const Hypers& h, double, const Registers<R>&) {
        double beta1 = h.betas[0], beta2 = h.betas[1];
        return {
            .weight_decay = h.weight_decay,
            .shrink = 1 - h.weight_decay * h.lr,
            .one_minus_beta1 = 1 - beta1,
            .one_minus_beta2 = 1 - beta2,
            .eps = h.eps,
            .low = -h.p,
            .high = h.p,
            .step_size = -h.lr,
            .estimated = 0,
        };
    }

    template <class T, class X>
    __device__ static void update(const Record<T>& s, X& p, X g, X& momentum, X& hessian_moment, X estimate) {
        if (s.weight_decay)
            p = mul(p, s.shrink);
        momentum = lerp(momentum, g, s.one_minus_beta1);
        if (s.estimated)
            hessian_moment = lerp(hessian_moment, estimate, s.one_minus_beta2);
        X quotient = div(momentum, maximum(hessian_moment, s.eps));
        p = axpy(p, minimum(maximum(quotient, s.low), s.high), s.step_size);
    }
};

ENTRIES(sophia, Sophia, 2)
SCALARS(sophia, Sophia)

}  // namespace refoptim
