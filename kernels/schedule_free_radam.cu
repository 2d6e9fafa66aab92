// ScheduleFreeRAdam: the twin of refoptim/optimizers/schedule_free_radam.py.
#include "harness/averaging.cuh"
#include "harness/multi_tensor.cuh"
#include "harness/rectification.cuh"
#include "harness/scalars.cuh"

namespace refoptim {

struct ScheduleFreeRAdam {
    struct Hypers {
        double lr, betas[2], eps, weight_decay, r, weight_lr_power, silent_sgd_phase;
    };

    template <class T> struct Record {
        T weight_decay, beta2, one_minus_beta2, correction2, eps, rectified, share;
        T gradient_step, iterate_step, unmade;
    };

    FLAGS(FLAG(weight_decay));
    USUAL(MOSTLY(rectified), SELDOM(unmade));

    template <class R> struct Registers {
        R weight_sum, lr_max;
    };

    // The length of a simple moving average like that of the squares after k steps.
    __device__ static double length(double beta2, double k) {
        double rho_inf = 2 / (1 - beta2) - 1;
        return rho_inf - 2 * k * power(beta2, k) / (1 - power(beta2, k));
    }

    // The factor of the learning rate of step k.
    __device__ static double factor(double beta2, double k, double silent) {
        double rho = length(beta2, k);
        return rho > 4 ? rectification(rho, 2 / (1 - beta2) - 1) : silent ? 0 : 1;
    }

    template <class R>
    __device__ static Registers<R> advance(const Hypers& h, double k, const Registers<R>& registers) {
        return weighed(k, h.lr * factor(h.betas[1], k, h.silent_sgd_phase), h.r, h.weight_lr_power, registers);
    }

    // The iterate is made by the first step.
    template <class R>
    __device__ static Record<double> scalars(const Hypers& h, double k, const Registers<R>& registers) {
        double beta1 = h.betas[0], beta2 = h.betas[1];
        double lr = h.lr * factor(beta2, k, h.silent_sgd_phase);
        double c = share(k, h.r, h.weight_lr_power, advance<R>(h, k, registers));
        return {
            .weight_decay = h.weight_decay,
            .beta2 = beta2,
            .one_minus_beta2 = 1 - beta2,
            .correction2 = 1 - power(beta2, k),
            .eps = h.eps,
            .rectified = double(length(beta2, k) > 4),
            .share = c,
            .gradient_step = lr * (beta1 * (1 - c) - 1),
            .iterate_step = -lr,
            .unmade = double(k == 1),
        };
    }

    template <class T, class X> __device__ static void update(const Record<T>& s, X& p, X g, X& z, X& exp_avg_sq) {
        z = s.unmade ? p : z;
        exp_avg_sq = addcmul(mul(exp_avg_sq, s.beta2), g, g, s.one_minus_beta2);
        if (s.rectified)
            g = div(g, add(sqrt(div(exp_avg_sq, s.correction2)), s.eps));
        if (s.weight_decay)
            g = axpy(g, p, s.weight_decay);
        p = axpy(lerp(p, z, s.share), g, s.gradient_step);
        z = axpy(z, g, s.iterate_step);
    }
};

ENTRIES(schedulefreeradam, ScheduleFreeRAdam, 2)
SCALARS(schedulefreeradam, ScheduleFreeRAdam)

}  // namespace refoptim
