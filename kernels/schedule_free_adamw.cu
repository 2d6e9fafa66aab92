// ScheduleFreeAdamW: the twin of refoptim/optimizers/schedule_free_adamw.py.
#include "harness/averaging.cuh"
#include "harness/multi_tensor.cuh"
#include "harness/scalars.cuh"

namespace refoptim {

struct ScheduleFreeAdamW {
    struct Hypers {
        double lr, betas[2], eps, weight_decay, warmup_steps, r, weight_lr_power;
    };

    template <class T> struct Record {
        T weight_decay, beta2, one_minus_beta2, correction2, eps, share, gradient_step, iterate_step, unmade;
    };

    FLAGS(FLAG(weight_decay));
    USUAL(SELDOM(unmade));

    template <class R> struct Registers {
        R weight_sum, lr_max;
    };

    template <class R>
    __device__ static Registers<R> advance(const Hypers& h, double k, const Registers<R>& registers) {
        return weighed(k, warmed_up(k, h.lr, h.warmup_steps), h.r, h.weight_lr_power, registers);
    }

    // The iterate is made by the first step.
    template <class R>
    __device__ static Record<double> scalars(const Hypers& h, double k, const Registers<R>& registers) {
        double beta1 = h.betas[0], beta2 = h.betas[1];
        double lr = warmed_up(k, h.lr, h.warmup_steps);
        double c = share(k, h.r, h.weight_lr_power, advance<R>(h, k, registers));
        return {
            .weight_decay = h.weight_decay,
            .beta2 = beta2,
            .one_minus_beta2 = 1 - beta2,
            .correction2 = 1 - power(beta2, k),
            .eps = h.eps,
            .share = c,
            .gradient_step = lr * (beta1 * (1 - c) - 1),
            .iterate_step = -lr,
            .unmade = double(k == 1),
        };
    }

    template <class T, class X> __device__ static void update(const Record<T>& s, X& p, X g, X& z, X& exp_avg_sq) {
        z = s.unmade ? p : z;
        exp_avg_sq = addcmul(mul(exp_avg_sq, s.beta2), g, g, s.one_minus_beta2);
        X u = div(g, add(sqrt(div(exp_avg_sq, s.correction2)), s.eps));
        if (s.weight_decay)
            u = axpy(u, p, s.weight_decay);
        p = axpy(lerp(p, z, s.share), u, s.gradient_step);
        z = axpy(z, u, s.iterate_step);
    }
};

ENTRIES(schedulefreeadamw, ScheduleFreeAdamW, 2)
SCALARS(schedulefreeadamw, ScheduleFreeAdamW)

}  // namespace refoptim
