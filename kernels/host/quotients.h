// Quotients by a scalar by fused multiply-adds: those of the divider, which takes longer.
#pragma once

namespace refoptim {

inline float fma(float x, float y, float z) { return __builtin_fmaf(x, y, z); }
inline double fma(double x, double y, double z) { return __builtin_fma(x, y, z); }

template <class X> inline X each_fma(X x, X y, X z) {
    for (unsigned i = 0; i < sizeof(X) / sizeof(x[0]); i++)
        x[i] = fma(x[i], y[i], z[i]);
    return x;
}

// Tells, other than by 0, whether a magnitude lies beyond 2**-90 to 2**38 (of doubles, 2**-700 to 2**324), which is half of
// all exponents: where that begins is taken off, and the highest bit says whether one lies in the other half.
inline int are_beyond(Floats x) { return signs(as_bits(x) + as_bits(x) - (37u << 24)); }
inline int are_beyond(Doubles x) { return signs((LongWords)x + (LongWords)x - (323ull << 53)); }

// x / c, rounded as the divider rounds it, in less time (Markstein, IBM Journal of Research and Development 34, 1990).
//
// 1 / c is `high` and, to twice the bits, `high + low`, so `near` is one of the two numbers beside x / c. What it leaves of x
// is exact, and the result before it is rounded would be if `high` were: it misses x / c by |x / c - near| |high * c - 1|.
// In units of the last place, with p bits and c between 1 and 2, that is at most (1/2 + d) c / 2**(p+1), where d is what
// parts x / c from the middle between two numbers. It is less than d, which is at least 2**-p / c, since x and c are whole
// numbers of units and no quotient is such a middle: so both are rounded to the same side.
template <class X, class T> inline X quotient(X x, T c) {
    T high = 1 / c, low = fma(-high, c, T(1)) * high;
    X near = each_fma(x, spread<X>(high), x * low);
    X rest = each_fma(-near, spread<X>(c), x);
    bool is_near = (absolute(c) > T(0x1p-20)) & (absolute(c) < T(0x1p20));
    if (__builtin_expect(are_beyond(x) | !is_near, false))
        return x / c;
    return each_fma(rest, spread<X>(high), near);
}

inline Floats div(Floats x, float c) { return quotient(x, c); }
inline Doubles div(Doubles x, double c) { return quotient(x, c); }

}  // namespace refoptim
