// ScheduleFreeSGD: the twin of refoptim/optimizers/schedule_free_sgd.py.
#include "harness/averaging.cuh"
#include "harness/multi_tensor.cuh"
#include "harness/scalars.cuh"

namespace refoptim {

struct ScheduleFreeSGD {
    struct Hypers {
        double lr, momentum, weight_decay, warmup_steps, r, weight_lr_power;
    };

    template <class T> struct Record {
        T weight_decay, share, gradient_step, iterate_step, unmade;
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
        double lr = warmed_up(k, h.lr, h.warmup_steps);
        double c = share(k, h.r, h.weight_lr_power, advance<R>(h, k, registers));
        return {
            .weight_decay = h.weight_decay,
            .share = c,
            .gradient_step = lr * (h.momentum * (1 - c) - 1),
            .iterate_step = -lr,
            .unmade = double(k == 1),
        };
    }

    template <class T, class X> __device__ static void update(const Record<T>& s, X& p, X g, X& z) {
        z = s.unmade ? p : z;
        if (s.weight_decay)
            g = axpy(g, p, s.weight_decay);
        p = axpy(lerp(p, z, s.share), g, s.gradient_step);
        z = axpy(z, g, s.iterate_step);
    }
};

ENTRIES(schedulefreesgd, ScheduleFreeSGD, 1)
SCALARS(schedulefreesgd, ScheduleFreeSGD)

}  // namespace refoptim
