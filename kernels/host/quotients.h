// Quotients by a scalar for AVX-512: those of the divider, which takes longer than what it is replaced by.
#pragma once

namespace refoptim {

typedef int Integers __attribute__((vector_size(REGISTER)));
typedef long long LongIntegers __attribute__((vector_size(REGISTER)));
typedef unsigned long long LongWords __attribute__((vector_size(REGISTER)));
constexpr int NOT_BELOW = 5;  // as instructions name comparisons

inline float fma(float x, float y, float z) { return __builtin_fmaf(x, y, z); }
inline double fma(double x, double y, double z) { return __builtin_fma(x, y, z); }

template <class X> inline X each_fma(X x, X y, X z) {
    for (unsigned i = 0; i < sizeof(X) / sizeof(x[0]); i++)
        x[i] = fma(x[i], y[i], z[i]);
    return x;
}

// Tells whether a magnitude lies beyond 2**-100 to 2**100 (of doubles, 2**-900 to 2**900); all do where there is no span.
inline bool are_beyond(Floats x, bool is_span) {
    Words above = (as_bits(x) & 0x7FFFFFFF) - (27u << 23), span = Words{} + (is_span ? 200u << 23 : 0);
    return __builtin_ia32_ucmpd512_mask((Integers)above, (Integers)span, NOT_BELOW, 0xFFFF);
}
inline bool are_beyond(Doubles x, bool is_span) {
    LongWords above = (LongWords)absolute(x) - (123ull << 52), span = LongWords{} + (is_span ? 1800ull << 52 : 0);
    return __builtin_ia32_ucmpq512_mask((LongIntegers)above, (LongIntegers)span, NOT_BELOW, 0xFF);
}

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
    if (are_beyond(x, absolute(c) > T(0x1p-20) && absolute(c) < T(0x1p20)))
        return x / c;
    return each_fma(rest, spread<X>(high), near);
}

inline Floats div(Floats x, float c) { return quotient(x, c); }
inline Doubles div(Doubles x, double c) { return quotient(x, c); }

}  // namespace refoptim
