// ASGD: the twin of refoptim/optimizers/asgd.py.
#include "harness/multi_tensor.cuh"
#include "harness/scalars.cuh"

namespace refoptim {

struct ASGD {
    struct Hypers {
        double lr, lambd, alpha, t0, weight_decay;
    };

    template <class T> struct Record {
        T weight_decay, shrink, step_size, averaging, mu;
    };

    FLAGS(FLAG(weight_decay), FLAG(averaging));

    template <class R> struct Registers {
        R eta, mu;
    };

    template <class R> __device__ static Registers<R> advance(const Hypers& h, double k, const Registers<R>&) {
        return {
            .eta = R(h.lr / power(1 + h.lambd * h.lr * k, h.alpha)),
            .mu = R(1 / (k - h.t0 > 1 ? k - h.t0 : 1)),
        };
    }

    template <class R>
    __device__ static Record<double> scalars(const Hypers& h, double, const Registers<R>& registers) {
        double eta = registers.eta, mu = registers.mu;
        return {
            .weight_decay = h.weight_decay,
            .shrink = 1 - h.lambd * eta,
            .step_size = -eta,
            .averaging = double(mu != 1),
            .mu = mu,
        };
    }

    template <class T, class X> __device__ static void update(const Record<T>& s, X& p, X g, X& ax) {
        if (s.weight_decay)
            g = axpy(g, p, s.weight_decay);
        p = axpy(mul(p, s.shrink), g, s.step_size);
        ax = s.averaging ? add(ax, mul(sub(p, ax), s.mu)) : p;
    }
};

ENTRIES(asgd, ASGD, 1)
SCALARS(asgd, ASGD)

}  // namespace refoptim
