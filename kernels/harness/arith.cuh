// The words every update rule is written in: the twin of refoptim/numerics/arith.py.
//
// X is a number of the arithmetic type, float or double; C is a scalar of that type, or an X as well. On a host an X may
// be several numbers side by side (host/pack.h). Each operation is one IEEE-754 operation rounded to nearest even: compile
// without contraction to fused multiply-adds, without flush-to-zero, with correctly rounded quotients and roots.
#pragma once

#include "number.cuh"

namespace refoptim {

template <class X, class C> __device__ inline X mul(X x, C c) { return x * c; }
template <class X, class C> __device__ inline X div(X x, C c) { return x / c; }
template <class X, class C> __device__ inline X add(X x, C c) { return x + c; }
template <class X> __device__ inline X sub(X x, X y) { return x - y; }
template <class X> __device__ inline X neg(X x) { return -x; }

template <class X, class C> __device__ inline X where(Mask<X> condition, C c, X x) {
    return choose(condition, spread<X>(c), x);
}

template <class X> __device__ inline X sign(X x) { return where(x > 0, 1, X{}) - where(x < 0, 1, X{}); }
template <class X, class C> __device__ inline X maximum(X x, C y) {
    return where((x >= y) | (x != x), x, spread<X>(y));
}
template <class X, class C> __device__ inline X minimum(X x, C y) {
    return where((x <= y) | (x != x), x, spread<X>(y));
}

template <class X> __device__ inline X rsqrt(X x) { return 1 / sqrt(x); }
template <class X, class C> __device__ inline X reciprocal(X x, C c) { return (1 / x) * c; }

template <class X, class C> __device__ inline X axpy(X x, X y, C c) { return x + c * y; }
template <class X, class C> __device__ inline X addcmul(X x, X y, X z, C c) { return x + (c * y) * z; }
template <class X, class C> __device__ inline X addcdiv(X x, X y, X z, C c) { return x + (c * y) / z; }

template <class X, class C> __device__ inline X lerp(X x, X y, C c) {
    X gap = y - x;
    return absolute(c) < C(0.5) ? x + c * gap : y - gap * (1 - c);
}

// A direction as it is: only records of cautious steps mask it (cautious.cuh).
template <class R, class X> __device__ inline X masked(const R&, X u, X) { return u; }

}  // namespace refoptim
