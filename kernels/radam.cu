// RAdam: the twin of refoptim/optimizers/radam.py.
#include "harness/cautious.cuh"
#include "harness/multi_tensor.cuh"
#include "harness/rectification.cuh"
#include "harness/scalars.cuh"

namespace refoptim {

struct RAdam : NoRegisters {
    struct Hypers {
        double lr, betas[2], eps, weight_decay, decoupled_weight_decay;
    };

    template <class T> struct Record {
        T weight_decay, decoupled, shrink, one_minus_beta1, beta2, one_minus_beta2;
        T correction1, lr, eps, root_correction2, rectified, rect;
    };

    FLAGS(FLAG(weight_decay), FLAG(decoupled));
    USUAL(MOSTLY(rectified));

    template <class R> __device__ static Record<double> scalars(const Hypers& h, double k, const Registers<R>&) {
        double beta1 = h.betas[0], beta2 = h.betas[1];
        double correction2 = 1 - power(beta2, k);
        double rho_inf = 2 / (1 - beta2) - 1;
        double rho = rho_inf - 2 * k * power(beta2, k) / correction2;
        return {
            .weight_decay = h.weight_decay,
            .decoupled = h.decoupled_weight_decay,
            .shrink = 1 - h.lr * h.weight_decay,
            .one_minus_beta1 = 1 - beta1,
            .beta2 = beta2,
            .one_minus_beta2 = 1 - beta2,
            .correction1 = 1 - power(beta1, k),
            .lr = h.lr,
            .eps = h.eps,
            .root_correction2 = power(correction2, 0.5),
            .rectified = double(rho > 5),
            .rect = rho > 5 ? rectification(rho, rho_inf) : 0,
        };
    }

    template <class R, class X> __device__ static void update(const R& s, X& p, X g, X& exp_avg, X& exp_avg_sq) {
        if (s.weight_decay && s.decoupled)
            p = mul(p, s.shrink);
        else if (s.weight_decay)
            g = axpy(g, p, s.weight_decay);
        exp_avg = lerp(exp_avg, g, s.one_minus_beta1);
        exp_avg_sq = addcmul(mul(exp_avg_sq, s.beta2), g, g, s.one_minus_beta2);

        X u = mul(div(masked(s, exp_avg, g), s.correction1), s.lr);
        if (s.rectified) {
            u = mul(u, reciprocal(add(sqrt(exp_avg_sq), s.eps), s.root_correction2));
            u = mul(u, s.rect);
        }
        p = sub(p, u);
    }
};

ENTRIES(radam, RAdam, 2)
CAUTIOUS(radam, RAdam, 2)
SCALARS(radam, RAdam)

}  // namespace refoptim
