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
typedef unsigned Words __attribute__((vector_size(REGISTER)));
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

template <class X> inline X each_root(X x) {
    for (unsigned i = 0; i < sizeof(X) / sizeof(x[0]); i++)
        x[i] = sqrt(x[i]);
    return x;
}

inline Floats sqrt(Floats x) { return each_root(x); }
inline Doubles sqrt(Doubles x) { return each_root(x); }

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

#if defined(__AVX512F__)
#include "quotients.h"
#endif
