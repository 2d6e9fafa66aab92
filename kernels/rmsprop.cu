// RMSprop: the twin of refoptim/optimizers/rmsprop.py.
#include "harness/cautious.cuh"
#include "harness/multi_tensor.cuh"
#include "harness/scalars.cuh"

namespace refoptim {

struct RMSprop : NoRegisters {
    struct Hypers {
        double lr, alpha, eps, weight_decay, momentum, centered;
    };

    template <class T> struct Record {
        T weight_decay, alpha, one_minus_alpha, centered, minus_one, eps, momentum, has_buffer, one, step_size;
    };

    FLAGS(FLAG(weight_decay), FLAG_OF(1, has_buffer), FLAG_OF(2, centered));

    template <class R> __device__ static Record<double> scalars(const Hypers& h, double, const Registers<R>&) {
        return {
            .weight_decay = h.weight_decay,
            .alpha = h.alpha,
            .one_minus_alpha = 1 - h.alpha,
            .centered = h.centered,
            .minus_one = -1,
            .eps = h.eps,
            .momentum = h.momentum,
            .has_buffer = double(h.momentum != 0),
            .one = 1,
            .step_size = -h.lr,
        };
    }

    template <class R, class X>
    __device__ static void update(const R& s, X& p, X g, X& square_avg, X& momentum_buffer, X& grad_avg) {
        if (s.weight_decay)
            g = axpy(g, p, s.weight_decay);
        square_avg = addcmul(mul(square_avg, s.alpha), g, g, s.one_minus_alpha);
        X variance = square_avg;
        if (s.centered) {
            grad_avg = lerp(grad_avg, g, s.one_minus_alpha);
            variance = addcmul(square_avg, grad_avg, grad_avg, s.minus_one);
        }
        X avg = add(sqrt(variance), s.eps);
        if (s.has_buffer) {
            momentum_buffer = addcdiv(mul(momentum_buffer, s.momentum), g, avg, s.one);
            p = axpy(p, masked(s, momentum_buffer, g), s.step_size);
        } else {
            p = addcdiv(p, g, avg, s.step_size);
        }
    }
};

ENTRIES(rmsprop, RMSprop, 3)
CAUTIOUS(rmsprop, RMSprop, 3)
SCALARS(rmsprop, RMSprop)

}  // namespace refoptim
