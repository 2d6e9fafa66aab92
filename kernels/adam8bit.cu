// Adam8bit: the twin of refoptim/optimizers/adam8bit.py.
#include "harness/coded.cuh"

namespace refoptim {

struct Adam8bit : NoRegisters {
    struct Hypers {
        double lr, betas[2], eps, weight_decay, block_size, double_scalars, decoupled_weight_decay;
    };

    template <class T> struct Record {
        T weight_decay, decoupled, decay, one_minus_beta1, one_minus_beta2;
        T root_correction2, eps, correction1, lr, block_size;
    };

    __device__ static double narrowed(bool wide, double x) { return wide ? x : double(float(x)); }

    __device__ static double correction(bool wide, double beta, double k) {
        return narrowed(wide, 1 - narrowed(wide, power(narrowed(wide, beta), k)));
    }

    template <class R> __device__ static Record<double> scalars(const Hypers& h, double k, const Registers<R>&) {
        double beta1 = h.betas[0], beta2 = h.betas[1];
        return {
            .weight_decay = h.weight_decay,
            .decoupled = h.decoupled_weight_decay,
            .decay = narrowed(h.double_scalars, h.lr) * narrowed(h.double_scalars, h.weight_decay),
            .one_minus_beta1 = 1 - beta1,
            .one_minus_beta2 = 1 - beta2,
            .root_correction2 = power(correction(h.double_scalars, beta2, k), 0.5),
            .eps = h.eps,
            .correction1 = correction(h.double_scalars, beta1, k),
            .lr = h.lr,
            .block_size = h.block_size,
        };
    }

    template <class T, class X>
    __device__ static void update(const Record<T>& s, X& p, X g, X& exp_avg, X& exp_avg_sq) {
        if (s.decoupled)
            p = sub(p, mul(p, s.decay));
        else
            g = add(g, mul(p, s.weight_decay));
        exp_avg = lerp(exp_avg, g, s.one_minus_beta1);
        exp_avg_sq = lerp(exp_avg_sq, mul(g, g), s.one_minus_beta2);
        X denom = add(div(sqrt(exp_avg_sq), s.root_correction2), s.eps);
        p = sub(p, div(mul(div(exp_avg, s.correction1), s.lr), denom));
    }
};

CODED_ENTRIES(adam8bit, Adam8bit, 2)
SCALARS(adam8bit, Adam8bit)

}  // namespace refoptim
