// Prodigy: the twin of refoptim/optimizers/prodigy.py.
#include "harness/cautious.cuh"
#include "harness/summed.cuh"

namespace refoptim {

struct Prodigy {
    template <class T> struct Record {
        T active, coupled, beta3, weight_gain, beta2, square_gain, averaged, beta1, gradient_gain;
        T moves, floor, decay, step_size;
        T unmade;
    };

    FLAGS(FLAG(active), FLAG(coupled), FLAG_OF(3, averaged), FLAG(moves), FLAG(decay));
    USUAL(SELDOM(unmade));

    template <class T, class X>
    __device__ static Several<X, 2> sums_over_all(const Record<T>& s, X p, X g, X weights, X p0, X, X) {
        p0 = s.unmade ? p : p0;
        if (s.coupled)
            g = axpy(g, p, s.coupled);
        return {mul(g, sub(p0, p)), absolute(axpy(mul(weights, s.beta3), g, s.weight_gain))};
    }

    template <class R, class X>
    __device__ static void update(const R& s, X& p, X g, X& s_, X& p0, X& exp_avg_sq, X& exp_avg) {
        p0 = s.unmade ? p : p0;
        X direction = g;
        if (s.active) {
            if (s.coupled)
                direction = g = axpy(g, p, s.coupled);
            s_ = axpy(mul(s_, s.beta3), g, s.weight_gain);
            exp_avg_sq = addcmul(mul(exp_avg_sq, s.beta2), g, g, s.square_gain);
            if (s.averaged)
                direction = exp_avg = axpy(mul(exp_avg, s.beta1), g, s.gradient_gain);
        }
        if (s.moves) {
            if (s.decay)
                p = axpy(p, p, s.decay);
            X u = s.averaged ? masked(s, direction, g) : direction;
            p = addcdiv(p, u, add(sqrt(exp_avg_sq), s.floor), s.step_size);
        }
    }
};

ENTRIES(prodigy, Prodigy, 4)
OVER_ALL(prodigy, Prodigy, 4, 2)
CAUTIOUS(prodigy, Prodigy, 4)

}  // namespace refoptim
