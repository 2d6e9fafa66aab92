// NovoGrad: the twin of refoptim/optimizers/novograd.py.
#include "harness/cautious.cuh"
#include "harness/summed.cuh"

namespace refoptim {

struct NovoGrad {
    template <class T> struct Record {
        T weight_decay, decoupled, shrink, averaged, amsgrad, beta1, one_minus_beta1, beta2, one_minus_beta2, eps,
            step_size;
        T denom;
    };

    FLAGS(FLAG(weight_decay), FLAG(decoupled), FLAG(averaged));

    template <class T, class X> __device__ static Several<X, 1> sums(const Record<T>&, X, X g, X) {
        return {square(g)};
    }

    __device__ static void
    measured(Record<double>& s, const Shape&, double squares, double& exp_avg_sq, double& max_exp_avg_sq) {
        double average = exp_avg_sq == 0 ? squares : exp_avg_sq * s.beta2 + s.one_minus_beta2 * squares;
        bool kept = max_exp_avg_sq >= average || max_exp_avg_sq != max_exp_avg_sq;
        double largest = kept ? max_exp_avg_sq : average;
        s.denom = sqrt(s.amsgrad ? largest : average) + s.eps;
        exp_avg_sq = average;
        max_exp_avg_sq = largest;
    }

    template <class R, class X> __device__ static void update(const R& s, X& p, X g, X& exp_avg) {
        if (s.weight_decay && s.decoupled)
            p = mul(p, s.shrink);
        X u = div(g, s.denom);
        if (s.weight_decay && !s.decoupled)
            u = axpy(u, p, s.weight_decay);
        if (s.averaged)
            u = mul(u, s.one_minus_beta1);
        exp_avg = add(mul(exp_avg, s.beta1), u);
        p = axpy(p, masked(s, exp_avg, u), s.step_size);
    }
};

SUMMED(novograd, NovoGrad, 1, 1, 2)
CAUTIOUS(novograd, NovoGrad, 1)

}  // namespace refoptim
