// The scalars of a step, computed on the device: for steps that are captured in a graph or that a device may skip.
//
// A rule's `scalars` is the twin of its room's, in double, line for line; each number is rounded once to the arithmetic
// type. Where Python raises because a number overflows or divides by zero, it is infinite or NaN here.
#pragma once

#include "kernel.cuh"
#include "number.cuh"
#include "power.cuh"

namespace refoptim {

#ifndef HOST
__device__ inline bool divided_by_zero() { return false; }
#endif

// What most rules derive from: they keep no numbers, in the default dtype R, beside the step count.
struct NoRegisters {
    template <class R> struct Registers {};

    template <class R, class H>
    __device__ static Registers<R> advance(const H&, double, const Registers<R>& registers) {
        return registers;
    }
};

// Copies the numbers of one structure or array into another, each rounded once.
template <class To, class From> __device__ inline void copy_numbers(To* to, const From* from, i64 n) {
    for (i64 i = 0; i < n; i++)
        to[i] = To(from[i]);
}

// Takes the scalars to the next step, unless `found_inf` is set: `counter` holds the number of the last step and the
// registers after it, `record` gets the scalars. `lr`, unless it is null, replaces the learning rate. On a host a step of which
// something is in doubt, or of which Python would say that it divides by zero, gets the number -1.
template <class Rule, class T, class R>
__device__ inline void advance_scalars(
    typename Rule::Hypers h, const double* lr, double* counter, typename Rule::template Record<T>* record,
    const float* found_inf
) {
    typename Rule::template Registers<R> registers;
    constexpr i64 KEPT = sizeof(registers) / sizeof(R), FIELDS = sizeof(*record) / sizeof(T);
    if (blockIdx.x || threadIdx.x || (found_inf && *found_inf))
        return;
    if constexpr (requires { h.lr; })
        h.lr = lr ? *lr : h.lr;
    double k = counter[0] + 1;
    copy_numbers((R*)&registers, counter + 1, KEPT);
    auto s = Rule::template scalars<R>(h, k, registers);
    copy_numbers((T*)record, (const double*)&s, FIELDS);
    registers = Rule::template advance<R>(h, k, registers);
    copy_numbers(counter + 1, (const R*)&registers, KEPT);
    counter[0] = was_in_doubt() || divided_by_zero() ? -1 : k;
}

#define SCALARS_ENTRY(NAME, RULE, T, R)                                                                    \
    KERNEL(NAME)                                                                                           \
    (RULE::Hypers h, const double* lr, double* counter, RULE::Record<T>* record, const float* found_inf) { \
        advance_scalars<RULE, T, R>(h, lr, counter, record, found_inf);                                    \
    }                                                                                                      \
    EXPORT(NAME)

#define SCALARS(NAME, RULE)                                             \
    SCALARS_ENTRY(NAME##_scalars_float64_float64, RULE, double, double) \
    SCALARS_ENTRY(NAME##_scalars_float64_float32, RULE, double, float)  \
    SCALARS_ENTRY(NAME##_scalars_float32_float64, RULE, float, double)  \
    SCALARS_ENTRY(NAME##_scalars_float32_float32, RULE, float, float)

}  // namespace refoptim
