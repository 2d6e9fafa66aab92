// What a number is, and how it is stored: widened to the arithmetic type when read, rounded once when written.
//
// A rule is written for a number X. On a device X is float or double; host/pack.h adds packs of several side by side and
// the same functions for them.
#pragma once

namespace refoptim {

struct float16 {
    unsigned short bits;
};

struct bfloat16 {
    unsigned short bits;
};

template <class S> struct Storage {
    using Arithmetic = S;
};
template <> struct Storage<float16> {
    using Arithmetic = float;
};
template <> struct Storage<bfloat16> {
    using Arithmetic = float;
};

template <class S> using Arithmetic = typename Storage<S>::Arithmetic;

// V stored numbers, read and written at once; a host needs no more alignment than that of one.
#ifdef HOST
template <class S, int V> struct Vector {
#else
template <class S, int V> struct alignas(V * sizeof(S) > 16 ? 16 : V * sizeof(S)) Vector {
#endif
    S x[V];
};

// As many bytes as a vector has, as words.
template <int BYTES> struct alignas(BYTES > 16 ? 16 : BYTES) Raw {
    unsigned x[BYTES / 4];
};
template <> struct alignas(2) Raw<2> {
    unsigned short x;
};

// W numbers side by side.
template <class T, int W> struct Number {
    using Type = T;
};

template <class X> struct Comparison {
    using Type = bool;
};

template <class X> using Mask = typename Comparison<X>::Type;

template <class X, class C> __device__ inline X spread(C c) { return c; }
__device__ inline float choose(bool condition, float x, float y) { return condition ? x : y; }
__device__ inline double choose(bool condition, double x, double y) { return condition ? x : y; }
__device__ inline unsigned choose(bool condition, unsigned x, unsigned y) { return condition ? x : y; }

__device__ inline float sqrt(float x) { return __fsqrt_rn(x); }
__device__ inline double sqrt(double x) { return __dsqrt_rn(x); }
__device__ inline float absolute(float x) { return fabsf(x); }
__device__ inline double absolute(double x) { return fabs(x); }

__device__ inline unsigned as_bits(float x) { return __float_as_uint(x); }
__device__ inline float as_float(unsigned bits) { return __uint_as_float(bits); }

#ifdef HOST
}  // namespace refoptim
#include "../host/pack.h"
namespace refoptim {
#endif

template <class U> __device__ inline auto from_bfloat16(U bits) { return as_float(bits << 16); }

template <class X> __device__ inline auto to_bfloat16(X x) {
    auto bits = as_bits(x);
    return choose(x == x, (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16, bits - bits + 0x7FC0);
}

// The exponent moves by a multiplication, which is exact for subnormal numbers too; that of infinity and NaN by hand.
template <class U> __device__ inline auto from_float16(U bits) {
    U magnitude = (bits & 0x7FFF) << 13;
    U finite = as_bits(as_float(magnitude) * 0x1p112f);
    U wide = choose(magnitude < 0x0F800000, finite, magnitude | 0x70000000);
    return as_float(wide | (bits & 0x8000) << 16);
}

// A subnormal float16 is rounded by adding 1/2, whose last place is worth as much as that of the subnormal.
template <class X> __device__ inline auto to_float16(X x) {
    auto bits = as_bits(x), magnitude = bits & 0x7FFFFFFF;
    auto subnormal = as_bits(as_float(magnitude) + 0.5f) - 0x3F000000;
    auto normal = (magnitude - 0x38000000 + 0xFFF + ((magnitude >> 13) & 1)) >> 13;
    auto finite = choose(magnitude < 0x38800000, subnormal, normal);
    auto large = choose(magnitude > 0x7F800000, bits - bits + 0x7E00, bits - bits + 0x7C00);
    return choose(magnitude < 0x477FF000, finite, large) | (bits >> 16 & 0x8000);
}

__device__ inline float widen(float x) { return x; }
__device__ inline double widen(double x) { return x; }
__device__ inline float widen(bfloat16 x) { return from_bfloat16((unsigned)x.bits); }

__device__ inline void round_to(float& to, float x) { to = x; }
__device__ inline void round_to(double& to, double x) { to = x; }

// A device has instructions for 16 bits, with the same results; those for bfloat16 from compute capability 8.0 on.
#if __CUDA_ARCH__ >= 800
__device__ inline void round_to(bfloat16& to, float x) { asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(to.bits) : "f"(x)); }
#else
__device__ inline void round_to(bfloat16& to, float x) { to.bits = to_bfloat16(x); }
#endif

#ifdef __CUDACC__
__device__ inline float widen(float16 x) {
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
    return y;
}
__device__ inline void round_to(float16& to, float x) { asm("cvt.rn.f16.f32 %0, %1;" : "=h"(to.bits) : "f"(x)); }
#else
__device__ inline float widen(float16 x) { return from_float16((unsigned)x.bits); }
__device__ inline void round_to(float16& to, float x) { to.bits = to_float16(x); }
#endif

// Rounds to bfloat16 and widens again.
__device__ inline float through_bfloat16(float x) {
#ifdef HOST
    return from_bfloat16(to_bfloat16(x));
#else
    bfloat16 narrow;
    round_to(narrow, x);
    return widen(narrow);
#endif
}

// Read the number, or the numbers, of a vector from place i on, and write them.
template <class T, class S, int V> __device__ inline void read(T& x, const Vector<S, V>& v, int i) {
    x = widen(v.x[i]);
}
template <class T, class S, int V> __device__ inline void write(Vector<S, V>& v, int i, T x) { round_to(v.x[i], x); }

}  // namespace refoptim
