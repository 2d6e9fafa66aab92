// NAdam: the twin of refoptim/optimizers/nadam.py.
#include "harness/cautious.cuh"
#include "harness/multi_tensor.cuh"
#include "harness/scalars.cuh"

namespace refoptim {

struct NAdam {
    struct Hypers {
        double lr, betas[2], eps, weight_decay, momentum_decay, decoupled_weight_decay;
    };

    template <class T> struct Record {
        T weight_decay, decoupled, shrink, one_minus_beta1, beta2, one_minus_beta2;
        T correction2, eps, gradient_step, momentum_step;
    };

    FLAGS(FLAG(weight_decay), FLAG(decoupled));

    template <class R> struct Registers {
        R mu_product;
    };

    // The momentum of step k.
    __device__ static double momentum(const Hypers& h, double k) {
        return h.betas[0] * (1 - 0.5 * power(0.96, k * h.momentum_decay));
    }

    template <class R>
    __device__ static Registers<R> advance(const Hypers& h, double k, const Registers<R>& registers) {
        return {.mu_product = registers.mu_product * R(momentum(h, k))};
    }

    template <class R>
    __device__ static Record<double> scalars(const Hypers& h, double k, const Registers<R>& registers) {
        double beta1 = h.betas[0], beta2 = h.betas[1];
        double mu = momentum(h, k), mu_next = momentum(h, k + 1);
        double mu_product = advance<R>(h, k, registers).mu_product;
        return {
            .weight_decay = h.weight_decay,
            .decoupled = h.decoupled_weight_decay,
            .shrink = 1 - h.lr * h.weight_decay,
            .one_minus_beta1 = 1 - beta1,
            .beta2 = beta2,
            .one_minus_beta2 = 1 - beta2,
            .correction2 = 1 - power(beta2, k),
            .eps = h.eps,
            .gradient_step = -h.lr * (1 - mu) / (1 - mu_product),
            .momentum_step = (-h.lr * mu_next) / (1 - mu_product * mu_next),
        };
    }

    template <class R, class X> __device__ static void update(const R& s, X& p, X g, X& exp_avg, X& exp_avg_sq) {
        if (s.weight_decay && s.decoupled)
            p = mul(p, s.shrink);
        else if (s.weight_decay)
            g = axpy(g, p, s.weight_decay);
        exp_avg = lerp(exp_avg, g, s.one_minus_beta1);
        exp_avg_sq = addcmul(mul(exp_avg_sq, s.beta2), g, g, s.one_minus_beta2);

        X denom = add(sqrt(div(exp_avg_sq, s.correction2)), s.eps);
        p = addcdiv(p, g, denom, s.gradient_step);
        p = addcdiv(p, masked(s, exp_avg, g), denom, s.momentum_step);
    }
};

ENTRIES(nadam, NAdam, 2)
CAUTIOUS(nadam, NAdam, 2)
SCALARS(nadam, NAdam)

}  // namespace refoptim
