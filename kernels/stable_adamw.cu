// StableAdamW: the twin of refoptim/optimizers/stable_adamw.py.
#include "harness/cautious.cuh"
#include "harness/summed.cuh"

namespace refoptim {

struct StableAdamW {
    template <class T> struct Record {
        T weight_decay, one_minus_b1, b2, one_minus_b2, eps, floor, lr, decouple_lr, max_lr;
        T shrink, step_size;
    };

    FLAGS(FLAG(weight_decay));

    template <class R, class X> __device__ static void averages(const R& s, X g, X& exp_avg, X& exp_avg_sq) {
        exp_avg = lerp(exp_avg, g, s.one_minus_b1);
        exp_avg_sq = addcmul(mul(exp_avg_sq, s.b2), g, g, s.one_minus_b2);
    }

    template <class T, class X>
    __device__ static Several<X, 1> sums(const Record<T>& s, X, X g, X exp_avg, X exp_avg_sq) {
        averages(s, g, exp_avg, exp_avg_sq);
        return {div(square(g), maximum(exp_avg_sq, s.floor))};
    }

    __device__ static void measured(Record<double>& s, const Shape& shape, double squares) {
        double size = shape.size;
        double rms = sqrt(squares / (size > 1 ? size : 1));
        double lr = s.lr / (rms > 1 ? rms : 1);
        double largest = s.max_lr > 0 ? s.max_lr : s.lr;
        double share = s.decouple_lr && largest > 0 ? lr / largest : lr;
        s.shrink = 1 - share * s.weight_decay;
        s.step_size = -lr;
    }

    template <class R, class X> __device__ static void update(const R& s, X& p, X g, X& exp_avg, X& exp_avg_sq) {
        averages(s, g, exp_avg, exp_avg_sq);
        if (s.weight_decay)
            p = mul(p, s.shrink);
        p = addcdiv(p, masked(s, exp_avg, g), add(sqrt(exp_avg_sq), s.eps), s.step_size);
    }
};

SUMMED(stableadamw, StableAdamW, 2, 1, 0)
CAUTIOUS(stableadamw, StableAdamW, 2)

}  // namespace refoptim
