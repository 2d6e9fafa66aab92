// SparseAdam: the twin of refoptim/optimizers/sparse_adam.py.
#include "harness/multi_tensor.cuh"
#include "harness/rows.cuh"
#include "harness/scalars.cuh"

namespace refoptim {

struct SparseAdam : NoRegisters {
    struct Hypers {
        double lr, betas[2], eps;
    };

    template <class T> struct Record {
        T one_minus_beta1, one_minus_beta2, eps, step_size;
    };

    template <class R> __device__ static Record<double> scalars(const Hypers& h, double k, const Registers<R>&) {
        double beta1 = h.betas[0], beta2 = h.betas[1];
        return {
            .one_minus_beta1 = 1 - beta1,
            .one_minus_beta2 = 1 - beta2,
            .eps = h.eps,
            .step_size = -(h.lr * sqrt(1 - power(beta2, k)) / (1 - power(beta1, k))),
        };
    }

    template <class T, class X>
    __device__ static void update(const Record<T>& s, X& p, X g, X& exp_avg, X& exp_avg_sq) {
        exp_avg = add(exp_avg, mul(sub(g, exp_avg), s.one_minus_beta1));
        exp_avg_sq = add(exp_avg_sq, mul(sub(mul(g, g), exp_avg_sq), s.one_minus_beta2));
        X denom = add(sqrt(exp_avg_sq), s.eps);
        p = add(p, mul(div(exp_avg, denom), s.step_size));
    }
};

ENTRIES(sparseadam, SparseAdam, 2)
ROWS_ENTRIES(sparseadam, SparseAdam, 2)
SCALARS(sparseadam, SparseAdam)

}  // namespace refoptim
