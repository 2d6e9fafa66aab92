// Rprop: the twin of refoptim/optimizers/rprop.py.
#include "harness/multi_tensor.cuh"
#include "harness/scalars.cuh"

namespace refoptim {

struct Rprop : NoRegisters {
    struct Hypers {
        double etas[2], step_sizes[2];
    };

    template <class T> struct Record {
        T eta_minus, eta_plus, smallest, largest, zero, one, minus_one;
    };

    template <class R> __device__ static Record<double> scalars(const Hypers& h, double, const Registers<R>&) {
        return {
            .eta_minus = h.etas[0],
            .eta_plus = h.etas[1],
            .smallest = h.step_sizes[0],
            .largest = h.step_sizes[1],
            .zero = 0,
            .one = 1,
            .minus_one = -1,
        };
    }

    template <class T, class X> __device__ static void update(const Record<T>& s, X& p, X g, X& prev, X& step_size) {
        X factor = sign(mul(g, prev));
        factor = where(factor > 0, s.eta_plus, factor);
        factor = where(factor < 0, s.eta_minus, factor);
        factor = where(factor == 0, s.one, factor);
        step_size = minimum(maximum(mul(step_size, factor), s.smallest), s.largest);
        g = where(factor == s.eta_minus, s.zero, g);
        p = addcmul(p, sign(g), step_size, s.minus_one);
        prev = g;
    }
};

ENTRIES(rprop, Rprop, 2)
SCALARS(rprop, Rprop)

}  // namespace refoptim
