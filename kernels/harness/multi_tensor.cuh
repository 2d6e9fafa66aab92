// The harness of all elementwise rules: one launch updates any number of tensors.
//
// Blocks stride over chunks, threads over the elements of a chunk, 16 bytes at a time where all arrays of the chunk are
// aligned to that; no result depends on the number of blocks or threads.
#pragma once

#include "arith.cuh"
#include "kernel.cuh"

namespace refoptim {

// What a launch works on. `tables` holds the size of each tensor; then for each array of a tensor (the parameter, the
// gradient, the state arrays, what is only read, the rounded copy of a master parameter) its address, 0 where there is none.
// `parts` holds for each chunk, of `chunk` elements but for the last of a tensor, the number of its tensor; then which of
// its chunks it is. `record` replaces the record that is passed by value, `grad_scale` divides gradients, `found_inf` other
// than 0 skips the step; each may be null.
struct Bucket {
    const i64* tables;
    const int* parts;
    i64 tensors, chunks, chunk, maximize;
    const void* record;
    const float* grad_scale;
    const float* found_inf;
};

#ifdef HOST
template <class T> constexpr int SIDE_BY_SIDE = LANES<T>;
template <class T, class G> constexpr int AT_ONCE = LANES<T>;
#else
template <class T> constexpr int SIDE_BY_SIDE = 1;
template <class T, class G> constexpr int AT_ONCE = 16 / sizeof(G);
#endif

template <int... J> struct Numbers {};
template <int N, int... J> struct UpTo : UpTo<N - 1, N - 1, J...> {};
template <int... J> struct UpTo<0, J...> {
    using Type = Numbers<J...>;
};

// What a gradient goes through before the rule: it is unscaled, and turned round where the objective is maximized.
template <class T> struct Preparation {
    bool scaled = false, maximize = false;
    T scale = 1;

    Preparation() = default;

    template <class B>
    __device__ explicit Preparation(const B& b)
        : scaled(b.grad_scale), maximize(b.maximize), scale(b.grad_scale ? *b.grad_scale : 1) {}

    template <class X> __device__ X operator()(X gradient) const {
        gradient = scaled ? div(gradient, scale) : gradient;
        return maximize ? neg(gradient) : gradient;
    }
};

// What a rule asks of its record, once for all elements: a number that is 0 or not, and the state array that is there only
// where it is not. A host has a loop for each answer (host/decided.h); a device asks each time. Numbers that are 0 in most
// steps, or are not, have no loop of their own where they are otherwise, as in the first step.
template <auto FIELD, int STATE = -1> struct Flag {};
template <auto FIELD, bool IS_SET> struct Usual {};
template <class... F> struct Flags {};

#define FLAG(NAME) Flag<&Record<T>::NAME>
#define FLAG_OF(STATE, NAME) Flag<&Record<T>::NAME, STATE>
#define FLAGS(...) template <class T> using Asked = Flags<__VA_ARGS__>

#define SELDOM(NAME) Usual<&Record<T>::NAME, false>
#define MOSTLY(NAME) Usual<&Record<T>::NAME, true>
#define USUAL(...) template <class T> using Expected = Flags<__VA_ARGS__>

// How many arrays a rule reads and does not write. They stand behind its state arrays, in the same storage.
template <class Rule> constexpr int ONLY_READ = 0;
template <class Rule>
    requires requires { Rule::ONLY_READ; }
constexpr int ONLY_READ<Rule> = Rule::ONLY_READ;

// A chunk: some elements of a tensor.
struct Part {
    i64 tensor, start, size;

    __device__ Part(const Bucket& b, i64 number)
        : tensor(b.parts[number]), start(b.parts[b.chunks + number] * b.chunk) {
        i64 rest = b.tables[tensor] - start;
        size = rest < b.chunk ? rest : b.chunk;
    }
};

// Bytes of the arrays of a launch that a host may still find in its caches from the last step.
constexpr i64 CACHED = 12 << 20;

// The arrays of a chunk: P is the storage of the parameter and of its N state arrays, those that are only read among them;
// G that of the gradient.
template <class P, class G, int N> struct Chunk {
    i64 size;
    bool in_caches = false;
    P* p;
    G* g;
    P* state[N + 1];
    G* copy;

    __device__ Chunk(const Bucket& b, const Part& part)
        : size(part.size), in_caches(b.chunks * b.chunk * i64(sizeof(P) * (N + 1) + sizeof(G)) <= CACHED) {
        const i64* addresses = b.tables + b.tensors + part.tensor;
        p = at<P>(addresses[0], part.start);
        g = at<G>(addresses[b.tensors], part.start);
        for (int j = 0; j < N; j++)
            state[j] = at<P>(addresses[(2 + j) * b.tensors], part.start);
        copy = at<G>(addresses[(N + 2) * b.tensors], part.start);
    }

    // The arrays of one number, `place` of the arrays of a tensor.
    template <class B> __device__ Chunk(const B& b, i64 place, G* gradient) : size(1), p(b.p + place), g(gradient) {
        for (int j = 0; j < N; j++)
            state[j] = b.state[j] ? b.state[j] + place : nullptr;
        copy = b.copy ? b.copy + place : nullptr;
    }

    template <class S> __device__ static S* at(i64 address, i64 start) {
        S* x = address ? (S*)address + start : nullptr;
        ASSUME(__isGlobal(x));
        return x;
    }

    __device__ bool aligned() const {
        i64 bits = (i64)p | (i64)g | (i64)copy;
        for (int j = 0; j < N; j++)
            bits |= (i64)state[j];
        return bits % alignof(Vector<G, AT_ONCE<Arithmetic<P>, G>>) == 0;
    }
};

// Reads V numbers, zeros where there is no array; a host asks for those that come soon if it FETCHES. A device reads them
// as words: numbers would be taken apart at once where there may be none of them, which waits for the memory, and the next
// array would only be read after that.
template <int V, bool FETCHES = true, class S> __device__ inline Vector<S, V> load(const S* x, i64 i) {
#ifdef HOST
    if (!x)
        return {};
    const Vector<S, V>* from = (const Vector<S, V>*)x + i;
    if constexpr (FETCHES)
        FETCH_AHEAD(from);
    return *from;
#else
    Raw<sizeof(Vector<S, V>)> words{};
    if (x)
        words = ((const Raw<sizeof(Vector<S, V>)>*)x)[i];
    return __builtin_bit_cast(Vector<S, V>, words);
#endif
}

template <class S, int V> __device__ inline void store(S* x, i64 i, const Vector<S, V>& value) {
    if (x)
        ((Vector<S, V>*)x)[i] = value;
}

// Updates the V elements from i * V on, W of them side by side.
template <class Rule, int V, int W, bool FETCHES = true, class T, class P, class G, int N, int... J>
__device__ inline void update_vector(
    const typename Rule::template Record<T>& s, Preparation<T> prepare, const Chunk<P, G, N>& chunk, i64 i,
    Numbers<J...>
) {
    using X = typename Number<T, W>::Type;
    ASSUME(chunk.p && chunk.g);
    Vector<P, V> p = load<V, FETCHES>(chunk.p, i);
    [[maybe_unused]] Vector<P, V> state[N + 1] = {load<V, FETCHES>(chunk.state[J], i)...};
    Vector<G, V> g = load<V, FETCHES>(chunk.g, i), copy;
    BOTH_OF_TWO
    for (int v = 0; v < V; v += W) {
        X parameter, gradient;
        [[maybe_unused]] X values[N + 1];
        read(parameter, p, v);
        read(gradient, g, v);
        (read(values[J], state[J], v), ...);
        Rule::update(s, parameter, prepare(gradient), values[J]...);
        write(p, v, parameter);
        (write(state[J], v, values[J]), ...);
        if constexpr (sizeof(P) != sizeof(G))
            write(copy, v, parameter);
    }
    store(chunk.p, i, p);
    (store(J < N - ONLY_READ<Rule> ? chunk.state[J] : nullptr, i, state[J]), ...);
    if constexpr (sizeof(P) != sizeof(G))
        store(chunk.copy, i, copy);
}

template <class Rule, int V, int W, class T, class P, class G, int N>
__device__ inline void update_elements(
    const typename Rule::template Record<T>& s, Preparation<T> prepare, const Chunk<P, G, N>& chunk, i64 begin, i64 end
) {
    for (i64 i = begin + threadIdx.x; i < end; i += blockDim.x)
        update_vector<Rule, V, W>(s, prepare, chunk, i, typename UpTo<N>::Type());
}

#ifdef HOST
}  // namespace refoptim
#include "../host/decided.h"
namespace refoptim {
#else
template <class Rule, class T, class P, class G, int N>
__device__ inline void
update_chunk(const typename Rule::template Record<T>& s, const Preparation<T>& prepare, const Chunk<P, G, N>& chunk) {
    constexpr int V = AT_ONCE<T, G>, W = SIDE_BY_SIDE<T>;
    i64 vectors = chunk.aligned() ? chunk.size / V : 0;
    update_elements<Rule, V, W>(s, prepare, chunk, 0, vectors);
    update_elements<Rule, 1, 1>(s, prepare, chunk, vectors * V, chunk.size);
}
#endif

template <class Rule, class P, class G, int N, class T = Arithmetic<P>>
__device__ inline void run(const typename Rule::template Record<T>& by_value, const Bucket& b) {
    using Record = typename Rule::template Record<T>;
    if (b.found_inf && *b.found_inf)
        return;
    Record s = b.record ? *(const Record*)b.record : by_value;
    const Preparation<T> prepare(b);
    for (i64 c = blockIdx.x; c < b.chunks; c += gridDim.x) {
        const Chunk<P, G, N> chunk(b, Part(b, c));
        if constexpr (ONLY_READ<Rule> > 0)
            s.estimated = chunk.state[N - 1] ? 1 : 0;
        update_chunk<Rule>(s, prepare, chunk);
    }
}

// Blocks that a multiprocessor must hold at once; doubles need more registers, and so do many arrays.
template <class P, int N = 0> constexpr int BLOCKS = sizeof(P) == 8 || N > 3 ? 3 : 4;

#define ENTRY(NAME, RULE, N, P, G)                                        \
    KERNEL(NAME, BLOCKS<P, N>)(RULE::Record<Arithmetic<P>> s, Bucket b) { \
        run<RULE, P, G, N + ONLY_READ<RULE>>(s, b);                       \
    }                                                                     \
    EXPORT(NAME)

#define EACH_STORAGE(ENTRY, NAME, RULE, N)                \
    ENTRY(NAME##_float64, RULE, N, double, double)        \
    ENTRY(NAME##_float32, RULE, N, float, float)          \
    ENTRY(NAME##_float16, RULE, N, float16, float16)      \
    ENTRY(NAME##_bfloat16, RULE, N, bfloat16, bfloat16)   \
    ENTRY(NAME##_float16_master, RULE, N, float, float16) \
    ENTRY(NAME##_bfloat16_master, RULE, N, float, bfloat16)

#define ENTRIES(NAME, RULE, N) EACH_STORAGE(ENTRY, NAME, RULE, N)

}  // namespace refoptim
