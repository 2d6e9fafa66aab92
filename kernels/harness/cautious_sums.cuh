// Sums of directions that a cautious step masks, for a rule that measures what is left of them.
#pragma once

#include "cautious.cuh"
#include "summed.cuh"

namespace refoptim {

template <class Rule, class P, class G, int N, class T, int... K>
__device__ inline void sum_masked(
    const typename Rule::template Record<T>& by_value, const Bucket& b, const T* cautions, const Sums& all,
    Numbers<K...>
) {
    const Preparation<T> prepare(b);
    for (i64 i = blockIdx.x; i < all.tiles; i += gridDim.x) {
        i64 number = all.number(i), k = number / b.tensors, place = number - k * b.tensors;
        const SummedTensor<P, G, N> tensor(b, place);
        const Sum<T> sum = all.sum<T>(number);
        const Careful<typename Rule::template Record<T>, T> s{by_value, cautions[place]};
        ((K == k ? sum_tile(Summand<Cautious<Rule>, P, G, N, K>{s, prepare, tensor}, sum, all.tile(i)) : void()), ...);
    }
}

#define CAUTIOUS_SUMS_ENTRY(NAME, STORAGE, RULE, N, SUMS, P, G)                            \
    KERNEL(NAME##_masked_sums_##STORAGE)                                                   \
    (RULE::Record<Arithmetic<P>> s, Bucket b, const Arithmetic<P>* cautions, Sums all) {   \
        sum_masked<RULE, P, G, N, Arithmetic<P>>(s, b, cautions, all, UpTo<SUMS>::Type()); \
    }                                                                                      \
    EXPORT(NAME##_masked_sums_##STORAGE)

// The entries of a rule whose sums are of masked directions.
#define CAUTIOUS_SUMS(NAME, RULE, N, SUMS)                                   \
    CAUTIOUS_SUMS_ENTRY(NAME, float64, RULE, N, SUMS, double, double)        \
    CAUTIOUS_SUMS_ENTRY(NAME, float32, RULE, N, SUMS, float, float)          \
    CAUTIOUS_SUMS_ENTRY(NAME, float16, RULE, N, SUMS, float16, float16)      \
    CAUTIOUS_SUMS_ENTRY(NAME, bfloat16, RULE, N, SUMS, bfloat16, bfloat16)   \
    CAUTIOUS_SUMS_ENTRY(NAME, float16_master, RULE, N, SUMS, float, float16) \
    CAUTIOUS_SUMS_ENTRY(NAME, bfloat16_master, RULE, N, SUMS, float, bfloat16)

}  // namespace refoptim
