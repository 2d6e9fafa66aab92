// SGD: the twin of refoptim/optimizers/sgd.py.
#include "harness/cautious.cuh"
#include "harness/multi_tensor.cuh"
#include "harness/rows.cuh"
#include "harness/scalars.cuh"

namespace refoptim {

struct SGD : NoRegisters {
    struct Hypers {
        double lr, momentum, dampening, weight_decay, nesterov;
    };

    template <class T> struct Record {
        T weight_decay, momentum, has_buffer, undamped, nesterov, step_size, unmade;
    };

    FLAGS(FLAG(weight_decay), FLAG_OF(0, has_buffer), FLAG(nesterov));
    USUAL(SELDOM(unmade));

    // The buffer is made by the first step of the parameter, so a counter that is 0 says that there is none yet.
    template <class R> __device__ static Record<double> scalars(const Hypers& h, double k, const Registers<R>&) {
        return {
            .weight_decay = h.weight_decay,
            .momentum = h.momentum,
            .has_buffer = double(h.momentum != 0),
            .undamped = 1 - h.dampening,
            .nesterov = h.nesterov,
            .step_size = -h.lr,
            .unmade = double(k == 1),
        };
    }

    template <class R, class X> __device__ static void update(const R& s, X& p, X g, X& momentum_buffer) {
        if (s.weight_decay)
            g = axpy(g, p, s.weight_decay);
        if (!s.has_buffer) {
            p = axpy(p, g, s.step_size);
            return;
        }
        momentum_buffer = s.unmade ? g : axpy(mul(momentum_buffer, s.momentum), g, s.undamped);
        X u = s.nesterov ? axpy(g, momentum_buffer, s.momentum) : momentum_buffer;
        p = axpy(p, masked(s, u, g), s.step_size);
    }
};

ENTRIES(sgd, SGD, 1)
ROWS_ENTRIES(sgd, SGD, 1)
CAUTIOUS(sgd, SGD, 1)
SCALARS(sgd, SGD)

}  // namespace refoptim
