// The harness of rules that need sums over elements: three launches, and one for each level of long sums, update any
// number of tensors. `kernels/harness/summed.py` makes them.
//
// The values that a rule's `sums` gives are summed in the order of the tree; its `measured` computes in double, for each
// tensor, what they say of the step, and puts it into the record with which `update` is run then. State that is one number
// for a tensor is read and renewed by `measured`.
//
// Of a rule that needs sums over all parameters, launches before these sum what its `sums_over_all` gives, tensor by
// tensor; the host adds the sums, and computes what they say.
#pragma once

#include "scalars.cuh"
#include "tree.cuh"

namespace refoptim {

// M values at once.
template <class X, int M> struct Several {
    X x[M];
};

// What `measured` is told of a tensor.
struct Shape {
    double size, axes;
};

// The tables of a bucket hold what `Bucket` says of the size, the parameter, the gradient, N state arrays and the copy;
// then the addresses of state numbers, and the number of axes.
template <class P, class G, int N> struct SummedTensor {
    const P* p;
    const G* g;
    const P* state[N + 1];

    __device__ SummedTensor(const Bucket& b, i64 number) {
        const i64* addresses = b.tables + b.tensors + number;
        p = (const P*)addresses[0], g = (const G*)addresses[b.tensors];
        for (int j = 0; j < N; j++)
            state[j] = (const P*)addresses[(2 + j) * b.tensors];
    }

    __device__ bool aligned(i64 i) const {
        i64 bits = (i64)(p + i) | (i64)(g + i);
        for (int j = 0; j < N; j++)
            bits |= state[j] ? (i64)(state[j] + i) : 0;
        return bits % alignof(Vector<G, AT_ONCE<Arithmetic<P>, G>>) == 0;
    }
};

// What sum number K of a rule adds up. Compilers leave out the reading of what it does not need.
template <class Rule, class P, class G, int N, int K> struct Summand {
    using T = Arithmetic<P>;
    static constexpr int V = AT_ONCE<T, G>;
    const typename Rule::template Record<T>& s;
    const Preparation<T>& prepare;
    SummedTensor<P, G, N> tensor;

    __device__ bool together(i64 i) const { return tensor.aligned(i); }

    template <int V, int W, class X> __device__ void values(i64 i, X* to) const {
        give<V, W>(i, to, typename UpTo<N>::Type());
    }

    template <int V, class S> __device__ static Vector<S, V> from(const S* x, i64 i) {
        return load<V>(x ? x + i : x, 0);
    }

    template <int V, int W, class X, int... J> __device__ void give(i64 i, X* to, Numbers<J...>) const {
        const Vector<P, V> p = from<V>(tensor.p, i);
        const Vector<G, V> g = from<V>(tensor.g, i);
        [[maybe_unused]] const Vector<P, V> state[N + 1] = {from<V>(tensor.state[J], i)...};
        for (int v = 0; v < V; v += W) {
            X parameter, gradient;
            [[maybe_unused]] X here[N + 1];
            read(parameter, p, v);
            read(gradient, g, v);
            (read(here[J], state[J], v), ...);
            to[v / W] = Rule::sums(s, parameter, prepare(gradient), here[J]...).x[K];
        }
    }
};

// Sum number `k * tensors + tensor` is sum number k of a tensor.
template <class Rule, class P, class G, int N, class T, int... K>
__device__ inline void
sum_values(const typename Rule::template Record<T>& s, const Bucket& b, const Sums& all, Numbers<K...>) {
    const Preparation<T> prepare(b);
    for (i64 i = blockIdx.x; i < all.tiles; i += gridDim.x) {
        i64 number = all.number(i), k = number / b.tensors;
        const SummedTensor<P, G, N> tensor(b, number - k * b.tensors);
        const Sum<T> sum = all.sum<T>(number);
        ((K == k ? sum_tile(Summand<Rule, P, G, N, K>{s, prepare, tensor}, sum, all.tile(i)) : void()), ...);
    }
}

// Computes the record of each tensor; `totals` are its sums, those of one kind side by side.
template <class Rule, class P, int N, class T, int... K, int... J>
__device__ inline void measure(
    const typename Rule::template Record<double>& s, const Bucket& b, const T* totals,
    typename Rule::template Record<T>* records, Numbers<K...>, Numbers<J...>
) {
    constexpr i64 FIELDS = sizeof(s) / sizeof(double);
    if (b.found_inf && *b.found_inf)
        return;
    for (i64 i = i64(blockIdx.x) * blockDim.x + threadIdx.x; i < b.tensors; i += i64(gridDim.x) * blockDim.x) {
        const i64* table = b.tables + i + (N + 4) * b.tensors;
        [[maybe_unused]] P* kept[sizeof...(J) + 1] = {(P*)table[J * b.tensors]...};
        [[maybe_unused]] double numbers[sizeof...(J) + 1] = {(kept[J] ? double(widen(*kept[J])) : double{})...};
        typename Rule::template Record<double> here = s;
        const Shape shape{double(b.tables[i]), double(table[sizeof...(J) * b.tensors])};
        Rule::measured(here, shape, double(totals[K * b.tensors + i])..., numbers[J]...);
        copy_numbers((T*)(records + i), (const double*)&here, FIELDS);
        ((kept[J] ? round_to(*kept[J], T(numbers[J])) : void()), ...);
    }
}

template <class Rule, class P, class G, int N, class T = Arithmetic<P>>
__device__ inline void update_summed(const Bucket& b, const typename Rule::template Record<T>* records) {
    if (b.found_inf && *b.found_inf)
        return;
    const Preparation<T> prepare(b);
    for (i64 c = blockIdx.x; c < b.chunks; c += gridDim.x) {
        const Part part(b, c);
        update_chunk<Rule>(records[part.tensor], prepare, Chunk<P, G, N>(b, part));
    }
}

#define SUMMED_ENTRY(NAME, STORAGE, RULE, N, SUMS, NUMBERS, P, G)                                           \
    KERNEL(NAME##_sums_##STORAGE)(RULE::Record<Arithmetic<P>> s, Bucket b, Sums all) {                      \
        sum_values<RULE, P, G, N, Arithmetic<P>>(s, b, all, UpTo<SUMS>::Type());                            \
    }                                                                                                       \
    EXPORT(NAME##_sums_##STORAGE)                                                                           \
    KERNEL(NAME##_measured_##STORAGE)                                                                       \
    (RULE::Record<double> s, Bucket b, const Arithmetic<P>* totals, RULE::Record<Arithmetic<P>>* records) { \
        measure<RULE, P, N>(s, b, totals, records, UpTo<SUMS>::Type(), UpTo<NUMBERS>::Type());              \
    }                                                                                                       \
    EXPORT(NAME##_measured_##STORAGE)                                                                       \
    KERNEL(NAME##_##STORAGE, BLOCKS<P>)(Bucket b, const RULE::Record<Arithmetic<P>>* records) {             \
        update_summed<RULE, P, G, N>(b, records);                                                           \
    }                                                                                                       \
    EXPORT(NAME##_##STORAGE)

// The entries of a rule with N state arrays like the parameter, so many sums, and so many state numbers.
#define SUMMED(NAME, RULE, N, SUMS, NUMBERS)                                   \
    SUMMED_ENTRY(NAME, float64, RULE, N, SUMS, NUMBERS, double, double)        \
    SUMMED_ENTRY(NAME, float32, RULE, N, SUMS, NUMBERS, float, float)          \
    SUMMED_ENTRY(NAME, float16, RULE, N, SUMS, NUMBERS, float16, float16)      \
    SUMMED_ENTRY(NAME, bfloat16, RULE, N, SUMS, NUMBERS, bfloat16, bfloat16)   \
    SUMMED_ENTRY(NAME, float16_master, RULE, N, SUMS, NUMBERS, float, float16) \
    SUMMED_ENTRY(NAME, bfloat16_master, RULE, N, SUMS, NUMBERS, float, bfloat16)

// A rule of which `sums_over_all` says what is summed.
template <class Rule> struct OverAll {
    template <class T> using Record = typename Rule::template Record<T>;

    template <class R, class... X> __device__ static auto sums(const R& s, X... x) {
        return Rule::sums_over_all(s, x...);
    }
};

#define OVER_ALL_ENTRY(NAME, STORAGE, RULE, N, SUMS, P, G)                                 \
    KERNEL(NAME##_over_all_##STORAGE)(RULE::Record<Arithmetic<P>> s, Bucket b, Sums all) { \
        sum_values<OverAll<RULE>, P, G, N, Arithmetic<P>>(s, b, all, UpTo<SUMS>::Type());  \
    }                                                                                      \
    EXPORT(NAME##_over_all_##STORAGE)

// The entries that begin so many sums over all parameters, for a rule with N state arrays like the parameter.
#define OVER_ALL(NAME, RULE, N, SUMS)                                   \
    OVER_ALL_ENTRY(NAME, float64, RULE, N, SUMS, double, double)        \
    OVER_ALL_ENTRY(NAME, float32, RULE, N, SUMS, float, float)          \
    OVER_ALL_ENTRY(NAME, float16, RULE, N, SUMS, float16, float16)      \
    OVER_ALL_ENTRY(NAME, bfloat16, RULE, N, SUMS, bfloat16, bfloat16)   \
    OVER_ALL_ENTRY(NAME, float16_master, RULE, N, SUMS, float, float16) \
    OVER_ALL_ENTRY(NAME, bfloat16_master, RULE, N, SUMS, float, bfloat16)

}  // namespace refoptim
