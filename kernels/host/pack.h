// Numbers side by side, as many as fit a register of this machine: what a rule runs on in one go on a host.
#pragma once

namespace refoptim {

#if defined(__AVX512F__)
constexpr int REGISTER = 64;
#elif defined(__AVX__)
constexpr int REGISTER = 32;
#else
constexpr int REGISTER = 16;
#endif

template <class T> constexpr int LANES = REGISTER / sizeof(T);

typedef float Floats __attribute__((vector_size(REGISTER)));
typedef double Doubles __attribute__((vector_size(REGISTER)));
typedef int Integers __attribute__((vector_size(REGISTER)));
typedef long long LongIntegers __attribute__((vector_size(REGISTER)));
typedef unsigned Words __attribute__((vector_size(REGISTER)));
typedef unsigned long long LongWords __attribute__((vector_size(REGISTER)));
typedef unsigned short Halves __attribute__((vector_size(REGISTER / 2)));

template <> struct Number<float, LANES<float>> {
    using Type = Floats;
};
template <> struct Number<double, LANES<double>> {
    using Type = Doubles;
};

template <> struct Comparison<Floats> {
    using Type = decltype(Floats{} < Floats{});
};
template <> struct Comparison<Doubles> {
    using Type = decltype(Doubles{} < Doubles{});
};

// A scalar minus zero is the scalar, minus zero included.
template <> inline Floats spread<Floats>(float c) { return c - Floats{}; }
template <> inline Doubles spread<Doubles>(double c) { return c - Doubles{}; }
template <> inline Floats spread<Floats>(int c) { return spread<Floats>((float)c); }
template <> inline Doubles spread<Doubles>(int c) { return spread<Doubles>((double)c); }
template <> inline Floats spread<Floats>(Floats c) { return c; }
template <> inline Doubles spread<Doubles>(Doubles c) { return c; }

inline Floats choose(Mask<Floats> condition, Floats x, Floats y) { return condition ? x : y; }
inline Doubles choose(Mask<Doubles> condition, Doubles x, Doubles y) { return condition ? x : y; }
inline Words choose(Mask<Floats> condition, Words x, Words y) { return condition ? x : y; }

inline Words as_bits(Floats x) { return (Words)x; }
inline Floats as_float(Words bits) { return (Floats)bits; }

inline Floats absolute(Floats x) { return as_float(as_bits(x) & 0x7FFFFFFF); }
inline Doubles absolute(Doubles x) { return (Doubles)((decltype(Doubles{} < x))x & 0x7FFFFFFFFFFFFFFF); }

// The signs of numbers, a bit for each.
#if defined(__AVX512F__)
inline int signs(Words x) { return __builtin_ia32_cvtd2mask512((Integers)x); }
inline int signs(LongWords x) { return __builtin_ia32_cvtq2mask512((LongIntegers)x); }
#elif defined(__AVX2__)
inline int signs(Words x) { return __builtin_ia32_movmskps256((Floats)x); }
inline int signs(LongWords x) { return __builtin_ia32_movmskpd256((Doubles)x); }
#endif

template <class X> inline X each_root(X x) {
    for (unsigned i = 0; i < sizeof(X) / sizeof(x[0]); i++)
        x[i] = sqrt(x[i]);
    return x;
}

inline Floats sqrt(Floats x) { return each_root(x); }
inline Doubles sqrt(Doubles x) { return each_root(x); }

// Where the weight of a mean is a scalar, a branch on it would stay in a loop, which takes longer than to choose numbers.
template <class X, class T> inline X weighted(X x, X y, T c) {
    X weight = spread<X>(c);
    Mask<X> is_small = absolute(weight) < spread<X>(T(0.5));
    return choose(is_small, x, y) + choose(is_small, weight, -(1 - weight)) * (y - x);
}

inline Floats lerp(Floats x, Floats y, float c) { return weighted(x, y, c); }
inline Doubles lerp(Doubles x, Doubles y, double c) { return weighted(x, y, c); }

// Writes a register past the caches, which would read first what it replaces; `to` is aligned to its size. Others see it
// after `finish_writes`.
inline void write_past_caches(void* to, Floats x) {
#if defined(__clang__)
    __builtin_nontemporal_store(x, (Floats*)to);
#elif defined(__AVX512F__)
    __builtin_ia32_movntps512((float*)to, x);
#elif defined(__AVX__)
    __builtin_ia32_movntps256((float*)to, x);
#elif defined(__x86_64__)
    __builtin_ia32_movntps((float*)to, x);
#else
    memcpy(to, &x, sizeof x);
#endif
}

inline void finish_writes() {
#if defined(__x86_64__)
    __builtin_ia32_sfence();
#endif
}

}  // namespace refoptim

#if defined(__AVX2__)
#include "quotients.h"
#endif
