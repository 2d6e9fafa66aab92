// How packs of numbers are read from storage and written to it.
#pragma once

#include "../harness/number.cuh"
#include "halves.h"

namespace refoptim {

inline Halves read_halves(const void* from) {
    Halves bits;
    memcpy(&bits, from, sizeof bits);
    return bits;
}

inline void write_halves(void* to, Halves bits) { memcpy(to, &bits, sizeof bits); }

template <class S> using FloatVector = Vector<S, LANES<float>>;
using DoubleVector = Vector<double, LANES<double>>;

inline void read(Floats& x, const FloatVector<float>& v, int) { memcpy(&x, &v, sizeof x); }
inline void read(Doubles& x, const DoubleVector& v, int) { memcpy(&x, &v, sizeof x); }
inline void read(Floats& x, const FloatVector<bfloat16>& v, int) { x = from_bfloat16(read_halves(&v)); }
inline void read(Floats& x, const FloatVector<float16>& v, int) { x = from_float16(read_halves(&v)); }

inline void write(FloatVector<float>& v, int, Floats x) { memcpy(&v, &x, sizeof x); }
inline void write(DoubleVector& v, int, Doubles x) { memcpy(&v, &x, sizeof x); }
inline void write(FloatVector<bfloat16>& v, int, Floats x) { write_halves(&v, rounded_to_bfloat16(x)); }
inline void write(FloatVector<float16>& v, int, Floats x) { write_halves(&v, rounded_to_float16(x)); }

#if defined(TWO_REGISTERS)
template <int V, bool FETCHES>
    requires(V == TWO_REGISTERS)
inline TwoRegisters load(const bfloat16* x, long long i) {
    if (!x)
        return {};
    if constexpr (FETCHES)
        FETCH_AHEAD(x + i * V);
    Words bits;
    memcpy(&bits, x + i * V, sizeof bits);
    return from_two_bfloat16(bits);
}

inline void store(bfloat16* x, long long i, const TwoRegisters& value) {
    Words bits = rounded_to_two_bfloat16(value.even, value.odd);
    if (x)
        memcpy(x + i * TWO_REGISTERS, &bits, sizeof bits);
}

inline void read(Floats& x, const TwoRegisters& v, int i) { x = i ? v.odd : v.even; }
inline void write(TwoRegisters& v, int i, Floats x) { (i ? v.odd : v.even) = x; }
#endif

}  // namespace refoptim
