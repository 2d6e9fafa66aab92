// Running averages of weights: the twin of refoptim/swa_utils/averages.py. The parameter is the average, the gradient the weight.
//
// An average keeps no state and is skipped by no one, so there are no scalars on the device.
#include "harness/multi_tensor.cuh"

namespace refoptim {

struct EMA {
    template <class T> struct Record {
        T decay, one_minus_decay;
    };

    template <class T, class X> __device__ static void update(const Record<T>& s, X& p, X g) {
        p = add(mul(p, s.decay), mul(g, s.one_minus_decay));
    }
};

struct SWA {
    template <class T> struct Record {
        T count, share, complex;
    };

    USUAL(SELDOM(complex));

    template <class T, class X> __device__ static void update(const Record<T>& s, X& p, X g) {
        X gap = sub(g, p);
        p = add(p, s.complex ? mul(gap, s.share) : div(gap, s.count));
    }
};

struct LerpEMA {
    template <class T> struct Record {
        T share;
    };

    template <class T, class X> __device__ static void update(const Record<T>& s, X& p, X g) {
        p = lerp(p, g, s.share);
    }
};

struct LerpSWA {
    template <class T> struct Record {
        T share;
    };

    template <class T, class X> __device__ static void update(const Record<T>& s, X& p, X g) {
        p = lerp(p, g, s.share);
    }
};

ENTRIES(ema, EMA, 0)
ENTRIES(swa, SWA, 0)
ENTRIES(lerpema, LerpEMA, 0)
ENTRIES(lerpswa, LerpSWA, 0)

}  // namespace refoptim
