// The harness of rules that take sparse gradients: one launch updates the rows of a tensor that the gradient touches.
//
// The entries of the gradient come sorted by row, those of one row in the order in which they are stored. The first entry
// of a row adds the values of all others to its own, in that order, and updates the row; threads stride over all numbers
// of all entries.
#pragma once

#include "multi_tensor.cuh"

namespace refoptim {

// `rows` holds the row of each entry, in order; `order` where its values are stored. The other names are those of Bucket
// and Chunk.
template <class P, class G, int N> struct Rows {
    const i64* rows;
    const i64* order;
    i64 entries, width, maximize;
    const void* record;
    const float* grad_scale;
    const float* found_inf;
    P* p;
    const G* g;
    P* state[N ? N : 1];
    G* copy;
};

// Sums one number over the entries of a row, `entry` the first of them, in the arithmetic type; rounded once.
template <class P, class G, int N>
__device__ inline Vector<G, 1> sum_entries(const Rows<P, G, N>& b, i64 entry, i64 column) {
    auto sum = widen(b.g[b.order[entry] * b.width + column]);
    for (i64 i = entry + 1; i < b.entries && b.rows[i] == b.rows[entry]; i++)
        sum += widen(b.g[b.order[i] * b.width + column]);
    Vector<G, 1> rounded;
    round_to(rounded.x[0], sum);
    return rounded;
}

template <class Rule, class P, class G, int N, class T = Arithmetic<P>>
__device__ inline void run_rows(const typename Rule::template Record<T>& by_value, const Rows<P, G, N>& b) {
    using Record = typename Rule::template Record<T>;
    if (b.found_inf && *b.found_inf)
        return;
    const Record s = b.record ? *(const Record*)b.record : by_value;
    const Preparation<T> prepare(b);
    i64 threads = i64(gridDim.x) * blockDim.x;
    for (i64 n = i64(blockIdx.x) * blockDim.x + threadIdx.x; n < b.entries * b.width; n += threads) {
        i64 entry = n / b.width, column = n % b.width;
        if (entry && b.rows[entry] == b.rows[entry - 1])
            continue;
        Vector<G, 1> sum = sum_entries(b, entry, column);
        const Chunk<P, G, N> number(b, b.rows[entry] * b.width + column, &sum.x[0]);
        update_vector<Rule, 1, 1>(s, prepare, number, 0, typename UpTo<N>::Type());
    }
}

#define ROWS_ENTRY(NAME, RULE, N, P, G)                                                             \
    KERNEL(NAME)(RULE::Record<Arithmetic<P>> s, Rows<P, G, N> b) { run_rows<RULE, P, G, N>(s, b); } \
    EXPORT(NAME)

#define ROWS_ENTRIES(NAME, RULE, N) EACH_STORAGE(ROWS_ENTRY, NAME##_rows, RULE, N)

}  // namespace refoptim
