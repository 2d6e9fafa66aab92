// Adadelta: the twin of refoptim/optimizers/adadelta.py.
#include "harness/multi_tensor.cuh"
#include "harness/scalars.cuh"

namespace refoptim {

struct Adadelta : NoRegisters {
    struct Hypers {
        double lr, rho, eps, weight_decay;
    };

    template <class T> struct Record {
        T weight_decay, rho, one_minus_rho, eps, step_size;
    };

    FLAGS(FLAG(weight_decay));

    template <class R> __device__ static Record<double> scalars(const Hypers& h, double, const Registers<R>&) {
        return {
            .weight_decay = h.weight_decay,
            .rho = h.rho,
            .one_minus_rho = 1 - h.rho,
            .eps = h.eps,
            .step_size = -h.lr,
        };
    }

    template <class T, class X>
    __device__ static void update(const Record<T>& s, X& p, X g, X& square_avg, X& acc_delta) {
        if (s.weight_decay)
            g = axpy(g, p, s.weight_decay);
        square_avg = addcmul(mul(square_avg, s.rho), g, g, s.one_minus_rho);
        X std = sqrt(add(square_avg, s.eps));
        X delta = mul(div(sqrt(add(acc_delta, s.eps)), std), g);
        acc_delta = addcmul(mul(acc_delta, s.rho), delta, delta, s.one_minus_rho);
        p = axpy(p, delta, s.step_size);
    }
};

ENTRIES(adadelta, Adadelta, 2)
SCALARS(adadelta, Adadelta)

}  // namespace refoptim
