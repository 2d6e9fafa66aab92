// Powers, exponentials and logarithms of doubles, correctly rounded but for the rarest cases, from + - * / and square roots
// alone, so equal on every machine.
//
// A number is held as the sum of two doubles, about 106 bits. x = m * 2**e with m near 1 gives log2(x**y) as an integer
// plus a remainder, the integer exactly, the remainder from series for the logarithm and the exponential. Before the one
// rounding the error is below 2**-94 of the result, so a result in the middle between two doubles is recognised. There are
// none where m is within 2**-28 of 1: they are powers of numbers of 27 bits. Exponentials and logarithms have none at all.
#pragma once

namespace refoptim {

// Whether a result since the last question may be a neighbour of the right one. A host asks, and computes it with more bits.
#ifdef HOST
static thread_local bool in_doubt = false;

inline void doubt(bool condition) { in_doubt |= condition; }
inline bool was_in_doubt() {
    bool was = in_doubt;
    in_doubt = false;
    return was;
}
#else
__device__ inline void doubt(bool) {}
__device__ inline bool was_in_doubt() { return false; }
#endif

namespace pairs {

// The sum of hi and lo, where hi is that sum rounded to a double.
struct Pair {
    double hi, lo;
};

__device__ constexpr Pair sum(double x, double y) {
    double hi = x + y, part = hi - x;
    return {hi, (x - (hi - part)) + (y - part)};
}

// The sum of two numbers of which the first is the larger, or 0.
__device__ constexpr Pair short_sum(double x, double y) {
    double hi = x + y;
    return {hi, y - (hi - x)};
}

// The first 26 bits of a number.
__device__ constexpr double upper(double x) {
    double shifted = x * 0x8000001;
    return shifted - (shifted - x);
}

__device__ constexpr Pair product(double x, double y) {
    double hi = x * y, x1 = upper(x), y1 = upper(y), x2 = x - x1, y2 = y - y1;
    return {hi, ((x1 * y1 - hi) + x1 * y2 + x2 * y1) + x2 * y2};
}

__device__ constexpr Pair operator+(Pair x, Pair y) {
    Pair hi = sum(x.hi, y.hi), lo = sum(x.lo, y.lo);
    hi = short_sum(hi.hi, hi.lo + lo.hi);
    return short_sum(hi.hi, hi.lo + lo.lo);
}

__device__ constexpr Pair operator*(Pair x, Pair y) {
    Pair hi = product(x.hi, y.hi);
    return short_sum(hi.hi, hi.lo + (x.hi * y.lo + x.lo * y.hi));
}

__device__ constexpr Pair quotient(double x, Pair y) {
    double hi = x / y.hi;
    Pair back = product(hi, y.hi);
    return short_sum(hi, ((x - back.hi) - back.lo - hi * y.lo) / y.hi);
}

// Coefficients of a power series; the terms after `PRECISE` are so small that doubles do for them.
template <int TERMS> struct Series {
    static constexpr int PRECISE = TERMS / 2 + 1;
    Pair c[TERMS];

    __device__ constexpr Pair operator()(Pair x) const {
        double tail = 0;
        for (int n = TERMS - 1; n > PRECISE; n--)
            tail = tail * x.hi + c[n].hi;
        Pair value = {tail, 0};
        for (int n = PRECISE; n >= 0; n--)
            value = value * x + c[n];
        return value;
    }
};

// 2 artanh(x) / x as a series in x * x, for |x| <= 0.18: 2 / (2n + 1).
__device__ constexpr Series<21> artanh_series() {
    Series<21> series = {};
    for (int n = 0; n < 21; n++)
        series.c[n] = quotient(2, {2.0 * n + 1, 0});
    return series;
}

// (exp(x) - 1) / x for |x| <= 0.35: 1 / (n + 1)!.
__device__ constexpr Series<23> exponential_series() {
    Series<23> series = {};
    double factorial = 1;
    for (int n = 0; n < 23; n++) {
        series.c[n] = quotient(1, {factorial, 0});
        factorial *= n + 2;
    }
    return series;
}

__device__ inline long long bits_of(double x) {
    long long bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

__device__ inline double from_bits(long long bits) {
    double x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

__device__ inline double nearest_integer(double x) { return (x + 0x1.8p52) - 0x1.8p52; }

// 2**n, n from -1022 to 1023.
__device__ inline double two_to(int n) { return from_bits((n + 1023LL) << 52); }

// Takes x > 0 apart into 2**e * m, m between 0.71 and 1.42.
struct Parts {
    double m, e;

    __device__ explicit Parts(double x) {
        bool subnormal = x < 0x1p-1022;
        long long bits = bits_of(subnormal ? x * 0x1p54 : x), exponent = bits >> 52;
        m = from_bits(bits - ((exponent - 1023) << 52));
        e = (double)(exponent - 1023 - (subnormal ? 54 : 0));
        if (m > 1.42) {
            m /= 2;
            e += 1;
        }
    }
};

__device__ constexpr Pair ln2() { return {0x1.62e42fefa39efp-1, 0x1.abc9e3b39803fp-56}; }

__device__ constexpr Pair inverse_ln2() { return {0x1.71547652b82fep+0, 0x1.777d0ffda0d24p-56}; }

// The natural logarithm of m between 0.71 and 1.42.
__device__ inline Pair log_near_one(double m) {
    constexpr Series<21> artanh = artanh_series();
    Pair s = quotient(m - 1, sum(m, 1));
    return s * artanh(s * s);
}

// 2**x - 1 for |x| <= 0.5.
__device__ inline Pair two_to_minus_one(Pair x) {
    constexpr Series<23> exponential = exponential_series();
    x = x * ln2();
    return x * exponential(x);
}

// (1 + x) * 2**n rounded once, for 1 + x between 0.7 and 1.42; what is within `tie` of the middle between two doubles is
// rounded to even.
__device__ inline double round_scaled(Pair x, int n, double tie) {
    Pair y = sum(1, x.hi);
    double last_place = y.hi < 1 || (y.hi == 1 && y.lo < 0) ? 0x1p-53 : 0x1p-52;
    double of_subnormal = n < -1000 ? two_to(-1074 - n) : 0;
    bool subnormal = of_subnormal > last_place;
    double unit = subnormal ? of_subnormal : last_place, shift = subnormal ? 0x1p52 * unit : 0;
    double high = shift + y.hi, rest = y.hi - (high - shift), low = y.lo + x.lo;
    double half = rest < 0 || (rest == 0 && low < 0) ? -unit / 2 : unit / 2;
    double beyond = ((rest - half) + y.lo) + x.lo;
    doubt(beyond >= -0x1p-93 && beyond <= 0x1p-93);
    if (beyond >= -tie && beyond <= tie)
        high += half;
    else if ((beyond > 0) == (half > 0))
        high += 2 * half;
    return (high - shift) * two_to(n / 2) * two_to(n - n / 2);
}

}  // namespace pairs

// x**y for x >= 0, with the special values of Python's, but infinity where Python raises an exception.
__device__ inline double power(double x, double y) {
    using namespace pairs;
    if (x == 1 || y == 0)
        return 1;
    if (x != x || y != y)
        return x + y;
    if (x == 0 || x * 0 != 0)
        return (x == 0) == (y > 0) ? 0 : two_to(1023) * 2;
    if (y == 0.5)
        return __dsqrt_rn(x);
    Parts parts(x);
    Pair log2 = log_near_one(parts.m) * inverse_ln2();
    y = y > 0x1p70 ? 0x1p70 : y < -0x1p70 ? -0x1p70 : y;
    double estimate = y * (parts.e + log2.hi);
    if (estimate > 1100 || estimate < -1100)
        return estimate > 0 ? two_to(1023) * 2 : 0;
    if (estimate > -0x1p-60 && estimate < 0x1p-60)
        return 1;
    Pair from_e = product(parts.e, y);
    double whole = nearest_integer(from_e.hi);
    Pair rest = short_sum(from_e.hi - whole, from_e.lo) + log2 * Pair{y, 0};
    double more = nearest_integer(rest.hi);
    rest = sum(rest.hi - more, rest.lo);
    bool near_one = parts.m - 1 > -0x1p-28 && parts.m - 1 < 0x1p-28;
    return round_scaled(two_to_minus_one(rest), (int)(whole + more), near_one ? 0 : 0x1p-93);
}

// e**x.
__device__ inline double exp(double x) {
    using namespace pairs;
    if (x != x)
        return x;
    if (x > 800 || x < -800)
        return x > 0 ? two_to(1023) * 2 : 0;
    if (x > -0x1p-60 && x < 0x1p-60)
        return 1;
    Pair rest = inverse_ln2() * Pair{x, 0};
    double whole = nearest_integer(rest.hi);
    rest = sum(rest.hi - whole, rest.lo);
    return round_scaled(two_to_minus_one(rest), (int)whole, 0);
}

// The natural logarithm: -infinity for 0, NaN below.
__device__ inline double log(double x) {
    using namespace pairs;
    double infinite = two_to(1023) * 2;
    if (x == 0)
        return -infinite;
    if (x < 0 || x != x)
        return infinite - infinite;
    if (x == infinite)
        return x;
    Parts parts(x);
    Pair found = Pair{parts.e, 0} * ln2() + log_near_one(parts.m);
    doubt(found.hi + found.lo * (1 + 0x1p-38) != found.hi);
    return found.hi;
}

}  // namespace refoptim
