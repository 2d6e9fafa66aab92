// LARS: the twin of refoptim/optimizers/lars.py.
#include "harness/cautious.cuh"
#include "harness/summed.cuh"

namespace refoptim {

struct LARS {
    template <class T> struct Record {
        T lr, weight_decay, trust_coeff, eps, trust_clip, adapted;
        T momentum, has_buffer, undamped, nesterov, step_size, unmade;
        T ratio;
    };

    FLAGS(FLAG(adapted), FLAG_OF(0, has_buffer), FLAG(nesterov));
    USUAL(SELDOM(unmade));

    template <class T, class X> __device__ static Several<X, 2> sums(const Record<T>&, X p, X g, X) {
        return {square(p), square(g)};
    }

    __device__ static void measured(Record<double>& s, const Shape&, double squares_of_p, double squares_of_g) {
        double w = sqrt(squares_of_p);
        double n = sqrt(squares_of_g);
        double ratio = w > 0 && n > 0 ? s.trust_coeff * w / (n + w * s.weight_decay + s.eps) : 1;
        double clipped = ratio >= s.lr ? 1 : ratio / s.lr;
        s.ratio = s.trust_clip ? clipped : ratio;
    }

    template <class R, class X> __device__ static void update(const R& s, X& p, X g, X& momentum_buffer) {
        if (s.adapted)
            g = mul(axpy(g, p, s.weight_decay), s.ratio);
        if (!s.has_buffer) {
            p = axpy(p, g, s.step_size);
            return;
        }
        momentum_buffer = s.unmade ? g : axpy(mul(momentum_buffer, s.momentum), g, s.undamped);
        X u = s.nesterov ? axpy(g, momentum_buffer, s.momentum) : momentum_buffer;
        p = axpy(p, masked(s, u, g), s.step_size);
    }
};

SUMMED(lars, LARS, 1, 2, 0)
CAUTIOUS(lars, LARS, 1)

}  // namespace refoptim
