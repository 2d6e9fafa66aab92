// Numbers of 16 bits, as many as there are floats in a register: widened and rounded by the instructions for that, which
// g++ does not find by itself.
#pragma once

#include "../harness/number.cuh"

namespace refoptim {

#if !defined(__AVX2__) || defined(__clang__)
inline Floats from_float16(Halves bits) { return from_float16(__builtin_convertvector(bits, Words)); }
inline Floats from_bfloat16(Halves bits) { return from_bfloat16(__builtin_convertvector(bits, Words)); }
inline Halves rounded_to_float16(Floats x) { return __builtin_convertvector(to_float16(x), Halves); }
inline Halves rounded_to_bfloat16(Floats x) { return __builtin_convertvector(to_bfloat16(x), Halves); }
#else
typedef short Shorts __attribute__((vector_size(REGISTER / 2)));
constexpr int NEAREST = 0;  // as instructions name how to round

// To look for a NaN among all takes less time than to replace each that there might be.
inline bool has_nan(Floats x) { return __builtin_expect(signs((Words)(x != x)) != 0, false); }

// Numbers, with each NaN one of its sign that says nothing else.
inline Floats plain(Floats x) {
    return has_nan(x) ? choose(x == x, x, as_float((as_bits(x) & 0x80000000) | 0x7FC00000)) : x;
}

#if defined(__AVX512F__)
constexpr int ALL = 0xFFFF, AS_SET = 4;

inline Floats from_float16(Halves bits) {
    return __builtin_ia32_vcvtph2ps512_mask((Shorts)bits, Floats{}, ALL, AS_SET);
}
inline Floats from_bfloat16(Halves bits) {
    return as_float((Words)__builtin_ia32_pmovzxwd512_mask((Shorts)bits, Integers{}, ALL) << 16);
}
inline Halves rounded_to_float16(Floats x) {
    return (Halves)__builtin_ia32_vcvtps2ph512_mask(plain(x), NEAREST, Shorts{}, ALL);
}
inline Halves rounded_to_bfloat16(Floats x) {
    return (Halves)__builtin_ia32_pmovdw512_mask((Integers)to_bfloat16(x), Shorts{}, ALL);
}
#else
typedef char Bytes __attribute__((vector_size(REGISTER)));
constexpr int NONE = -1, FIRST_AND_THIRD = 8;

inline Floats from_float16(Halves bits) { return __builtin_ia32_vcvtph2ps256((Shorts)bits); }
inline Halves rounded_to_float16(Floats x) { return (Halves)__builtin_ia32_vcvtps2ph256(plain(x), NEAREST); }

// One permutation of bytes takes less time than an extension and a shift.
inline Floats from_bfloat16(Halves bits) {
    typedef long long Two __attribute__((vector_size(16)));
    const Bytes above = {NONE, NONE, 0, 1, NONE, NONE, 2,  3,  NONE, NONE, 4,  5,  NONE, NONE, 6,  7,
                         NONE, NONE, 8, 9, NONE, NONE, 10, 11, NONE, NONE, 12, 13, NONE, NONE, 14, 15};
    return (Floats)__builtin_ia32_pshufb256((Bytes)__builtin_ia32_vbroadcastsi256((Two)bits), above);
}
inline Halves rounded_to_bfloat16(Floats x) {
    const Bytes upper = {2, 3, 6, 7, 10, 11, 14, 15, NONE, NONE, NONE, NONE, NONE, NONE, NONE, NONE,
                         2, 3, 6, 7, 10, 11, 14, 15, NONE, NONE, NONE, NONE, NONE, NONE, NONE, NONE};
    Words bits = as_bits(x), is_even = (Words)((bits & 0x10000) == 0);
    bits += 0x8000 + is_even;
    if (has_nan(x))
        bits = choose(x == x, bits, Words{} + 0x7FC00000);
    LongIntegers parts = (LongIntegers)__builtin_ia32_pshufb256((Bytes)bits, upper);
    parts = __builtin_ia32_permdi256(parts, FIRST_AND_THIRD);
    Halves halves;
    memcpy(&halves, &parts, sizeof halves);
    return halves;
}

// Two registers of bfloat16, which take less time than one after the other: every other number is in the upper half of its
// word already. A number is rounded up if its lower half + 0x7FFF + the last bit of its upper half is 0x10000 or more. The
// instruction for means, (x + y + 1) / 2, computes half of that, whose highest bit says so.
#define TWO_REGISTERS (2 * LANES<float>)

template <> struct Vector<bfloat16, TWO_REGISTERS> {
    Floats even = {}, odd = {};
};

typedef Vector<bfloat16, TWO_REGISTERS> TwoRegisters;

inline TwoRegisters from_two_bfloat16(Words bits) { return {as_float(bits << 16), as_float(bits & 0xFFFF0000)}; }

inline Floats with_one_nan(Floats x) { return choose(x == x, x, as_float(Words{} + 0x7FC00000)); }

inline Words rounded_to_two_bfloat16(Floats even, Floats odd) {
    typedef short Parts __attribute__((vector_size(REGISTER)));
    constexpr int UNORDERED = 3, ODD = 0xAA;
    if (__builtin_expect(signs((Words)__builtin_ia32_cmpps256(even, odd, UNORDERED)) != 0, false))
        even = with_one_nan(even), odd = with_one_nan(odd);
    Parts upper = __builtin_ia32_pblendw256((Parts)(as_bits(even) >> 16), (Parts)odd, ODD);
    Parts lower = __builtin_ia32_pblendw256((Parts)even, (Parts)(as_bits(odd) << 16), ODD);
    Parts above_middle = (upper & 1) | 0x7FFE;
    return (Words)(upper - ((Parts)__builtin_ia32_pavgw256(lower, above_middle) >> 15));
}
#endif
#endif

}  // namespace refoptim
