// FTRL-Proximal: the twin of refoptim/optimizers/ftrl.py, but for powers other than -0.5 and 0.
#include "harness/multi_tensor.cuh"
#include "harness/scalars.cuh"

namespace refoptim {

struct FTRL : NoRegisters {
    struct Hypers {
        double lr, learning_rate_power, l1, l2, l2_shrinkage, beta;
    };

    template <class T> struct Record {
        T rooted, flat, exponent, one, lr, shrinkage, low, high, twice_l2;
    };

    FLAGS(FLAG(rooted));

    template <class R> __device__ static Record<double> scalars(const Hypers& h, double, const Registers<R>&) {
        return {
            .rooted = double(h.learning_rate_power == -0.5),
            .flat = double(h.learning_rate_power == 0),
            .exponent = -h.learning_rate_power,
            .one = 1.0,
            .lr = h.lr,
            .shrinkage = 2 * h.l2_shrinkage,
            .low = -h.l1,
            .high = h.l1,
            .twice_l2 = 2 * (h.l2 + h.beta / (2.0 * h.lr)),
        };
    }

    template <class T, class X>
    __device__ static void update(const Record<T>& s, X& p, X g, X& accumulator, X& linear) {
        X n = add(accumulator, mul(g, g)), past, root;
        if (s.rooted) {
            past = sqrt(accumulator);
            root = sqrt(n);
        } else {
            past = where(accumulator == accumulator, s.one, accumulator);
            root = where(n == n, s.one, n);
        }
        X sigma = div(sub(root, past), s.lr);
        linear = add(linear, sub(add(g, mul(p, s.shrinkage)), mul(sigma, p)));
        X clipped = minimum(maximum(linear, s.low), s.high);
        p = div(sub(clipped, linear), add(div(root, s.lr), s.twice_l2));
        accumulator = n;
    }
};

ENTRIES(ftrl, FTRL, 2)
SCALARS(ftrl, FTRL)

}  // namespace refoptim
