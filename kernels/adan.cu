// Adan: the twin of refoptim/optimizers/adan.py.
#include "harness/cautious.cuh"
#include "harness/multi_tensor.cuh"
#include "harness/scalars.cuh"

namespace refoptim {

struct Adan : NoRegisters {
    struct Hypers {
        double lr, betas[3], eps, weight_decay, no_prox;
    };

    template <class T> struct Record {
        T first, one_minus_beta1, beta2, one_minus_beta2, beta3, one_minus_beta3, root_correction3, eps;
        T no_prox, shrink, step_size, step_size_diff, grow, zero;
    };

    FLAGS(FLAG(no_prox));
    USUAL(SELDOM(first));

    template <class R> __device__ static Record<double> scalars(const Hypers& h, double k, const Registers<R>&) {
        double beta1 = h.betas[0], beta2 = h.betas[1], beta3 = h.betas[2];
        return {
            .first = double(k == 1),
            .one_minus_beta1 = 1 - beta1,
            .beta2 = beta2,
            .one_minus_beta2 = 1 - beta2,
            .beta3 = beta3,
            .one_minus_beta3 = 1 - beta3,
            .root_correction3 = power(1 - power(beta3, k), 0.5),
            .eps = h.eps,
            .no_prox = h.no_prox,
            .shrink = 1 - h.lr * h.weight_decay,
            .step_size = -(h.lr / (1 - power(beta1, k))),
            .step_size_diff = -(h.lr * beta2 / (1 - power(beta2, k))),
            .grow = 1 + h.lr * h.weight_decay,
            .zero = 0,
        };
    }

    template <class R, class X>
    __device__ static void update(const R& s, X& p, X g, X& exp_avg, X& exp_avg_diff, X& exp_avg_sq, X& neg_pre_grad) {
        if (s.first)
            neg_pre_grad = neg(g);
        X d = add(neg_pre_grad, g);
        exp_avg = lerp(exp_avg, g, s.one_minus_beta1);
        exp_avg_diff = axpy(mul(exp_avg_diff, s.beta2), d, s.one_minus_beta2);
        X u = add(mul(d, s.beta2), g);
        exp_avg_sq = addcmul(mul(exp_avg_sq, s.beta3), u, u, s.one_minus_beta3);
        X denom = add(div(sqrt(exp_avg_sq), s.root_correction3), s.eps);
        if (s.no_prox)
            p = mul(p, s.shrink);
        p = addcdiv(p, masked(s, exp_avg, g), denom, s.step_size);
        p = addcdiv(p, exp_avg_diff, denom, s.step_size_diff);
        if (!s.no_prox)
            p = div(p, s.grow);
        neg_pre_grad = add(neg(g), s.zero);
    }
};

ENTRIES(adan, Adan, 4)
CAUTIOUS(adan, Adan, 4)
SCALARS(adan, Adan)

}  // namespace refoptim
