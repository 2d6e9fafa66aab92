// ADOPT: the twin of refoptim/optimizers/adopt.py.
#include "harness/cautious.cuh"
#include "harness/multi_tensor.cuh"
#include "harness/scalars.cuh"

namespace refoptim {

struct ADOPT : NoRegisters {
    struct Hypers {
        double lr, betas[2], eps, clip_exp, weight_decay, decoupled;
    };

    template <class T> struct Record {
        T weight_decay, decoupled, first, decay, eps, clipped, low, high;
        T one_minus_beta1, beta2, one_minus_beta2, step_size;
    };

    FLAGS(FLAG(weight_decay), FLAG(decoupled), FLAG(clipped));
    USUAL(SELDOM(first));

    // NaN stands for None.
    __device__ static bool is_given(double x) { return x == x; }

    // The bound of step k; 0 where there is none.
    __device__ static double bound(double clip_exp, double k) {
        return is_given(clip_exp) ? power(k - 1, clip_exp) : 0;
    }

    template <class R> __device__ static Record<double> scalars(const Hypers& h, double k, const Registers<R>&) {
        double beta1 = h.betas[0], beta2 = h.betas[1];
        return {
            .weight_decay = h.weight_decay,
            .decoupled = h.decoupled,
            .first = double(k == 1),
            .decay = -h.lr * h.weight_decay,
            .eps = h.eps,
            .clipped = double(is_given(h.clip_exp)),
            .low = -bound(h.clip_exp, k),
            .high = bound(h.clip_exp, k),
            .one_minus_beta1 = 1 - beta1,
            .beta2 = beta2,
            .one_minus_beta2 = 1 - beta2,
            .step_size = -h.lr,
        };
    }

    template <class R, class X> __device__ static void update(const R& s, X& p, X g, X& exp_avg, X& exp_avg_sq) {
        if (s.weight_decay && !s.decoupled)
            g = axpy(g, p, s.weight_decay);
        if (s.first) {
            exp_avg_sq = mul(g, g);
            return;
        }
        if (s.weight_decay && s.decoupled)
            p = axpy(p, p, s.decay);
        X u = div(g, maximum(sqrt(exp_avg_sq), s.eps));
        if (s.clipped)
            u = minimum(maximum(u, s.low), s.high);
        exp_avg = lerp(exp_avg, u, s.one_minus_beta1);
        p = axpy(p, masked(s, exp_avg, g), s.step_size);
        exp_avg_sq = addcmul(mul(exp_avg_sq, s.beta2), g, g, s.one_minus_beta2);
    }
};

ENTRIES(adopt, ADOPT, 2)
CAUTIOUS(adopt, ADOPT, 2)
SCALARS(adopt, ADOPT)

}  // namespace refoptim
