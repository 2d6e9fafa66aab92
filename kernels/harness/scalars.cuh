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

#ifdef HOST
template <class X> inline bool are_below(double limit, const X* numbers, i64 n) {
    bool below = true;
    for (i64 i = 0; i < n; i++)
        below = below && absolute(numbers[i]) < limit;
    return below;
}

// Takes several steps, until one gets the number -1, as one does with a number that is not below `limit`: `counters` holds a
// row before the first step and one after each, `records` the scalars of each.
template <class Rule, class T, class R>
inline void advance_several(
    typename Rule::Hypers h, double* counters, typename Rule::template Record<T>* records, double limit, i64 steps
) {
    constexpr i64 ROW = 1 + sizeof(typename Rule::template Registers<R>) / sizeof(R),
                  FIELDS = sizeof(*records) / sizeof(T);
    for (i64 i = 0; i < steps && counters[i * ROW] >= 0; i++) {
        double* counter = counters + (i + 1) * ROW;
        copy_numbers(counter, counter - ROW, ROW);
        advance_scalars<Rule, T, R>(h, nullptr, counter, records + i, nullptr);
        if (!are_below(limit, (const T*)(records + i), FIELDS) || !are_below(limit, counter + 1, ROW - 1))
            *counter = -1;
    }
}

#define SEVERAL_ENTRY(NAME, RULE, T, R)                                                                 \
    KERNEL(NAME)(RULE::Hypers h, double* counters, RULE::Record<T>* records, double limit, i64 steps) { \
        advance_several<RULE, T, R>(h, counters, records, limit, steps);                                \
    }                                                                                                   \
    EXPORT(NAME)
#else
#define SEVERAL_ENTRY(NAME, RULE, T, R)
#endif

#define SCALARS_ENTRY(NAME, RULE, T, R)                                                                    \
    KERNEL(NAME)                                                                                           \
    (RULE::Hypers h, const double* lr, double* counter, RULE::Record<T>* record, const float* found_inf) { \
        advance_scalars<RULE, T, R>(h, lr, counter, record, found_inf);                                    \
    }                                                                                                      \
    EXPORT(NAME)                                                                                           \
    SEVERAL_ENTRY(NAME##_ahead, RULE, T, R)

#define SCALARS(NAME, RULE)                                             \
    SCALARS_ENTRY(NAME##_scalars_float64_float64, RULE, double, double) \
    SCALARS_ENTRY(NAME##_scalars_float64_float32, RULE, double, float)  \
    SCALARS_ENTRY(NAME##_scalars_float32_float64, RULE, float, double)  \
    SCALARS_ENTRY(NAME##_scalars_float32_float32, RULE, float, float)

}  // namespace refoptim
