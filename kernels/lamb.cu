// LAMB: the twin of refoptim/optimizers/lamb.py.
#include "harness/cautious_sums.cuh"
#include "harness/summed.cuh"

namespace refoptim {

struct LAMB {
    template <class T> struct Record {
        T clipped, clip, weight_decay, averaged, beta1, one_minus_beta1, beta2, one_minus_beta2, correction1,
            root_correction2, eps;
        T adapted, trust_clip, step_size;
        T ratio;
    };

    FLAGS(FLAG(clipped), FLAG(weight_decay), FLAG(averaged), FLAG(adapted));

    template <class R, class X> __device__ static void averages(const R& s, X g, X& exp_avg, X& exp_avg_sq) {
        if (s.clipped)
            g = div(g, s.clip);
        exp_avg = s.averaged ? lerp(exp_avg, g, s.one_minus_beta1) : add(mul(exp_avg, s.beta1), g);
        exp_avg_sq = addcmul(mul(exp_avg_sq, s.beta2), g, g, s.one_minus_beta2);
    }

    template <class R, class X> __device__ static X direction(const R& s, X p, X g, X exp_avg, X exp_avg_sq) {
        X denom = add(div(sqrt(exp_avg_sq), s.root_correction2), s.eps);
        X u = masked(s, div(div(exp_avg, s.correction1), denom), g);
        return s.weight_decay ? axpy(u, p, s.weight_decay) : u;
    }

    template <class R, class X> __device__ static Several<X, 1> sums_over_all(const R&, X, X g, X, X) {
        return {square(g)};
    }

    template <class R, class X> __device__ static Several<X, 2> sums(const R& s, X p, X g, X exp_avg, X exp_avg_sq) {
        averages(s, g, exp_avg, exp_avg_sq);
        return {square(p), square(direction(s, p, g, exp_avg, exp_avg_sq))};
    }

    __device__ static void measured(Record<double>& s, const Shape&, double squares_of_p, double squares_of_u) {
        double w = sqrt(squares_of_p);
        double n = sqrt(squares_of_u);
        double ratio = w > 0 && n > 0 ? w / n : 1;
        double clipped = ratio > 1 ? 1 : ratio;
        s.ratio = s.trust_clip ? clipped : ratio;
    }

    template <class R, class X> __device__ static void update(const R& s, X& p, X g, X& exp_avg, X& exp_avg_sq) {
        averages(s, g, exp_avg, exp_avg_sq);
        X u = direction(s, p, g, exp_avg, exp_avg_sq);
        if (s.adapted)
            u = mul(u, s.ratio);
        p = axpy(p, u, s.step_size);
    }
};

SUMMED(lamb, LAMB, 2, 2, 0)
OVER_ALL(lamb, LAMB, 2, 1)
CAUTIOUS(lamb, LAMB, 2)
CAUTIOUS_SUMS(lamb, LAMB, 2, 2)

}  // namespace refoptim
