// Adagrad: the twin of refoptim/optimizers/adagrad.py.
#include "harness/multi_tensor.cuh"
#include "harness/rows.cuh"
#include "harness/scalars.cuh"

namespace refoptim {

struct Adagrad : NoRegisters {
    struct Hypers {
        double lr, lr_decay, weight_decay, eps;
    };

    template <class T> struct Record {
        T weight_decay, eps, one, step_size, sparse;
    };

    FLAGS(FLAG(weight_decay));
    USUAL(SELDOM(sparse));

    template <class R> __device__ static Record<double> scalars(const Hypers& h, double k, const Registers<R>&) {
        return {
            .weight_decay = h.weight_decay,
            .eps = h.eps,
            .one = 1,
            .step_size = -(h.lr / (1 + (k - 1) * h.lr_decay)),
            .sparse = 0,
        };
    }

    template <class T, class X> __device__ static void update(const Record<T>& s, X& p, X g, X& sum) {
        if (s.weight_decay)
            g = axpy(g, p, s.weight_decay);
        sum = s.sparse ? add(sum, mul(g, g)) : addcmul(sum, g, g, s.one);
        X denom = add(sqrt(sum), s.eps);
        p = s.sparse ? axpy(p, div(g, denom), s.step_size) : addcdiv(p, g, denom, s.step_size);
    }
};

ENTRIES(adagrad, Adagrad, 1)
ROWS_ENTRIES(adagrad, Adagrad, 1)
SCALARS(adagrad, Adagrad)

}  // namespace refoptim
