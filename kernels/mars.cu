// MARS: the twin of refoptim/optimizers/mars.py.
#include "harness/cautious.cuh"
#include "harness/summed.cuh"

namespace refoptim {

struct MARS {
    template <class T> struct Record {
        T first, weight_decay, gain, lion, every, eps;
        T beta1, beta2, correction1, root_correction2, step_size;
        T beta1_1d, beta2_1d, correction1_1d, root_correction2_1d, step_size_1d;
        T corrected, by_sign, squared, bound, b1, one_minus_b1, b2, one_minus_b2, c1, root_c2, size;
    };

    FLAGS(FLAG(corrected), FLAG(by_sign), FLAG_OF(1, squared));
    USUAL(SELDOM(first));

    template <class R, class X> __device__ static X reduced(const R& s, X g, X last_grad) {
        return s.first ? g : add(mul(sub(g, last_grad), s.gain), g);
    }

    template <class T, class X> __device__ static Several<X, 1> sums(const Record<T>& s, X, X g, X, X, X last_grad) {
        return {square(reduced(s, g, last_grad))};
    }

    __device__ static void measured(Record<double>& s, const Shape& shape, double squares) {
        bool whole = s.every || shape.axes > 1;
        double norm = sqrt(squares);
        double bound = norm < 1 ? 1 : norm;
        double beta1 = whole ? s.beta1 : s.beta1_1d;
        double beta2 = whole ? s.beta2 : s.beta2_1d;
        s.corrected = whole;
        s.by_sign = whole && s.lion;
        s.squared = !(whole && s.lion);
        s.bound = whole ? bound : 1;
        s.b1 = beta1;
        s.one_minus_b1 = 1 - beta1;
        s.b2 = beta2;
        s.one_minus_b2 = 1 - beta2;
        s.c1 = whole ? s.correction1 : s.correction1_1d;
        s.root_c2 = whole ? s.root_correction2 : s.root_correction2_1d;
        s.size = whole ? s.step_size : s.step_size_1d;
    }

    template <class R, class X>
    __device__ static void update(const R& s, X& p, X g, X& exp_avg, X& exp_avg_sq, X& last_grad) {
        X c = s.corrected ? div(reduced(s, g, last_grad), s.bound) : g;
        exp_avg = axpy(mul(exp_avg, s.b1), c, s.one_minus_b1);
        if (s.by_sign) {
            X u = sign(masked(s, exp_avg, g));
            p = axpy(p, add(mul(p, s.weight_decay), u), s.size);
            last_grad = g;
            return;
        }
        exp_avg_sq = addcmul(mul(exp_avg_sq, s.b2), c, c, s.one_minus_b2);
        X u = div(div(masked(s, exp_avg, g), s.c1), add(div(sqrt(exp_avg_sq), s.root_c2), s.eps));
        p = axpy(p, add(mul(p, s.weight_decay), u), s.size);
        last_grad = g;
    }
};

SUMMED(mars, MARS, 3, 1, 0)
CAUTIOUS(mars, MARS, 3)

}  // namespace refoptim
