// The harness of cautious steps: directions are masked where they do not agree with the gradient, and the rest is scaled
// up (refoptim/step/cautious.py). `kernels/harness/cautious.py` makes the launches: one counts the elements of each chunk
// that agree, one says for each tensor what divides its mask (cautious.cu), one updates.
#pragma once

#include "multi_tensor.cuh"

namespace refoptim {

// The record of a cautious step: `caution` divides the mask.
template <class R, class T> struct Careful : R {
    T caution;
};

template <class R, class T, class X> __device__ inline X masked(const Careful<R, T>& s, X u, X g) {
    return mul(u, div(where(mul(u, g) > 0, 1, X{}), s.caution));
}

// Counts for how many numbers conditions hold.
template <class X> struct Tally {
    i64 count = 0;

    __device__ void add(bool condition) { count += condition; }
    __device__ i64 total() const { return count; }
};

#ifdef HOST
// Of numbers side by side each counts for itself; a condition that holds is -1.
template <class X> struct Tallies {
    Mask<X> counts{};

    void add(Mask<X> condition) { counts -= condition; }

    i64 total() const {
        i64 sum = 0;
        for (unsigned i = 0; i < sizeof(X) / sizeof(X{}[0]); i++)
            sum += counts[i];
        return sum;
    }
};
template <> struct Tally<Floats> : Tallies<Floats> {};
template <> struct Tally<Doubles> : Tallies<Doubles> {};
#endif

// The record of a rule that is run to count where its direction agrees with the gradient.
template <class R, class X> struct Counting : R {
    mutable Tally<X> agreeing;
};

template <class R, class X> __device__ inline X masked(const Counting<R, X>& s, X u, X g) {
    s.agreeing.add(mul(u, g) > 0);
    return u;
}

// A rule whose steps are cautious.
template <class Rule> struct Cautious : Rule {
    template <class T> using Record = Careful<typename Rule::template Record<T>, T>;
};

// Counts among the V elements from i * V on for each i of this thread, W of them side by side.
template <class Rule, int V, int W, class T, class P, class G, int N, int... J>
__device__ inline i64 count_elements(
    const typename Rule::template Record<T>& s, const Preparation<T>& prepare, const Chunk<P, G, N>& chunk, i64 begin,
    i64 end, Numbers<J...>
) {
    using X = typename Number<T, W>::Type;
    const Counting<typename Rule::template Record<T>, X> counting{s, {}};
    for (i64 i = begin + threadIdx.x; i < end; i += blockDim.x) {
        const Vector<P, V> p = load<V>(chunk.p, i);
        [[maybe_unused]] const Vector<P, V> state[N + 1] = {load<V>(chunk.state[J], i)...};
        const Vector<G, V> g = load<V>(chunk.g, i);
        for (int v = 0; v < V; v += W) {
            X parameter, gradient;
            [[maybe_unused]] X values[N + 1];
            read(parameter, p, v);
            read(gradient, g, v);
            (read(values[J], state[J], v), ...);
            Rule::update(counting, parameter, prepare(gradient), values[J]...);
        }
    }
    return counting.agreeing.total();
}

template <class Rule, class T, class P, class G, int N>
__device__ inline i64
count_chunk(const typename Rule::template Record<T>& s, const Preparation<T>& prepare, const Chunk<P, G, N>& chunk) {
    constexpr int V = AT_ONCE<T, G>, W = SIDE_BY_SIDE<T>;
    const typename UpTo<N>::Type numbers;
    i64 vectors = chunk.aligned() ? chunk.size / V : 0;
    return count_elements<Rule, V, W>(s, prepare, chunk, 0, vectors, numbers) +
           count_elements<Rule, 1, 1>(s, prepare, chunk, vectors * V, chunk.size, numbers);
}

// The record of a tensor: its own, where a rule has measured, else that which all share.
template <class R> __device__ inline R record_of(const R& by_value, const Bucket& b, const R* records, i64 tensor) {
    return records ? records[tensor] : b.record ? *(const R*)b.record : by_value;
}

// Counts the elements of each chunk that agree.
template <class Rule, class P, class G, int N, class R>
__device__ inline void count_agreeing(const R& by_value, const Bucket& b, const R* records, i64* counts) {
    using T = Arithmetic<P>;
    __shared__ i64 of_threads[THREADS];
    if (b.found_inf && *b.found_inf)
        return;
    const Preparation<T> prepare(b);
    for (i64 c = blockIdx.x; c < b.chunks; c += gridDim.x) {
        const Part part(b, c);
        const R s = record_of(by_value, b, records, part.tensor);
        of_threads[threadIdx.x] = count_chunk<Rule>(s, prepare, Chunk<P, G, N>(b, part));
        __syncthreads();
        if (threadIdx.x == 0) {
            i64 sum = 0;
            for (int i = 0; i < int(blockDim.x); i++)
                sum += of_threads[i];
            counts[c] = sum;
        }
        __syncthreads();
    }
}

template <class Rule, class P, class G, int N, class R>
__device__ inline void
update_cautiously(const R& by_value, const Bucket& b, const R* records, const Arithmetic<P>* cautions) {
    using T = Arithmetic<P>;
    constexpr int V = AT_ONCE<T, G>, W = SIDE_BY_SIDE<T>;
    if (b.found_inf && *b.found_inf)
        return;
    const Preparation<T> prepare(b);
    for (i64 c = blockIdx.x; c < b.chunks; c += gridDim.x) {
        const Part part(b, c);
        const Careful<R, T> s{record_of(by_value, b, records, part.tensor), cautions[part.tensor]};
        const Chunk<P, G, N> chunk(b, part);
        i64 vectors = chunk.aligned() ? chunk.size / V : 0;
        update_elements<Cautious<Rule>, V, W>(s, prepare, chunk, 0, vectors);
        update_elements<Cautious<Rule>, 1, 1>(s, prepare, chunk, vectors * V, chunk.size);
    }
}

#define CAUTIOUS_ENTRY(NAME, STORAGE, RULE, N, P, G)                                                     \
    KERNEL(NAME##_agreeing_##STORAGE)                                                                    \
    (RULE::Record<Arithmetic<P>> s, Bucket b, const RULE::Record<Arithmetic<P>>* records, i64* counts) { \
        count_agreeing<RULE, P, G, N>(s, b, records, counts);                                            \
    }                                                                                                    \
    EXPORT(NAME##_agreeing_##STORAGE)                                                                    \
    KERNEL(NAME##_cautious_##STORAGE, BLOCKS<P, N>)                                                      \
    (RULE::Record<Arithmetic<P>> s, Bucket b, const RULE::Record<Arithmetic<P>>* records,                \
     const Arithmetic<P>* cautions) {                                                                    \
        update_cautiously<RULE, P, G, N>(s, b, records, cautions);                                       \
    }                                                                                                    \
    EXPORT(NAME##_cautious_##STORAGE)

// The entries of a rule with N state arrays like the parameter.
#define CAUTIOUS(NAME, RULE, N)                                   \
    CAUTIOUS_ENTRY(NAME, float64, RULE, N, double, double)        \
    CAUTIOUS_ENTRY(NAME, float32, RULE, N, float, float)          \
    CAUTIOUS_ENTRY(NAME, float16, RULE, N, float16, float16)      \
    CAUTIOUS_ENTRY(NAME, bfloat16, RULE, N, bfloat16, bfloat16)   \
    CAUTIOUS_ENTRY(NAME, float16_master, RULE, N, float, float16) \
    CAUTIOUS_ENTRY(NAME, bfloat16_master, RULE, N, float, bfloat16)

}  // namespace refoptim
