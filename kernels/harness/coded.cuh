// The harness of rules that compute in float and may keep state in 8 bits: the twin of refoptim/numerics/codes.py.
//
// A block of threads takes the blocks of codes that begin in a chunk one after another: all threads update elements and
// find the largest magnitudes, then the same elements are updated again, coded and stored. A parameter without codes goes
// element by element.
#pragma once

#include "multi_tensor.cuh"
#include "scalars.cuh"

namespace refoptim {

// The least scale that a block gets.
constexpr float FLOOR = 1e-12f;

__device__ inline float decode(unsigned char code, float scale, const float* table) { return mul(table[code], scale); }

// The code of the last number of the table that is not above y; 0 where there is none, and for NaN.
__device__ inline int below(float y, const float* table) {
    int code = (y >= table[128]) << 7;
    code += (y >= table[code + 64]) << 6;
    code += (y >= table[code + 32]) << 5;
    code += (y >= table[code + 16]) << 4;
    code += (y >= table[code + 8]) << 3;
    code += (y >= table[code + 4]) << 2;
    code += (y >= table[code + 2]) << 1;
    return code + (y >= table[code + 1]);
}

// The code of the nearer one of two numbers of the table, that of `code` and the next, on both sides of y; ties go up.
__device__ inline int nearer(int code, float y, const float* table) {
    int up = code + (code < 255);
    float low = table[code], gap = sub(table[up], low);
    return sub(y, low) >= mul(gap, 0.5f) ? up : code;
}

__device__ inline unsigned char encode(float x, float scale, const float* table) {
    float y = div(x, scale);
    return nearer(below(y, table), y, table);
}

// The largest of one number of each thread, NaN if one is; `shared` has room for one of each.
__device__ inline float largest(float x, [[maybe_unused]] float* shared) {
#ifdef HOST
    return x;
#else
    shared[threadIdx.x] = x;
    __syncthreads();
    for (int n = blockDim.x; n > 1;) {
        int half = (n + 1) / 2;
        if (int(threadIdx.x) + half < n)
            shared[threadIdx.x] = maximum(shared[threadIdx.x], shared[threadIdx.x + half]);
        n = half;
        __syncthreads();
    }
    x = shared[0];
    __syncthreads();
    return x;
#endif
}

// A parameter. The tables of its bucket hold after the state arrays for each of them its scales and its table.
template <class P, class G, int N> struct CodedTensor {
    i64 size;
    P* p;
    const G* g;
    void* state[N];
    float* scales[N];
    const float* tables[N];
    G* copy;

    __device__ CodedTensor(const Bucket& b, i64 number) {
        const i64 *at = b.tables + number, n = b.tensors;
        size = at[0], p = (P*)at[n], g = (const G*)at[2 * n], copy = (G*)at[3 * (N + 1) * n];
        for (int j = 0; j < N; j++) {
            state[j] = (void*)at[(3 + j) * n];
            scales[j] = (float*)at[(3 + N + 2 * j) * n];
            tables[j] = (const float*)at[(4 + N + 2 * j) * n];
        }
    }

    __device__ float read(int j, i64 i, float scale) const {
        return scales[j] ? decode(((const unsigned char*)state[j])[i], scale, tables[j])
                         : float(widen(((P*)state[j])[i]));
    }

    __device__ void write(int j, i64 i, float x, float scale) const {
        if (scales[j])
            ((unsigned char*)state[j])[i] = encode(x, scale, tables[j]);
        else
            round_to(((P*)state[j])[i], x);
    }
};

// An element on its way through a step.
template <class Rule, int N> struct CodedElement {
    float p, state[N];

    template <class P, class G, int... J>
    __device__ CodedElement(
        const typename Rule::template Record<float>& s, const Preparation<Arithmetic<P>>& prepare,
        const CodedTensor<P, G, N>& tensor, i64 i, const float* scales, Numbers<J...>
    )
        : p(float(widen(tensor.p[i]))), state{tensor.read(J, i, scales[J])...} {
        Rule::update(s, p, float(prepare(widen(tensor.g[i]))), state[J]...);
    }

    template <class P, class G>
    __device__ void store(const CodedTensor<P, G, N>& tensor, i64 i, const float* scales) const {
        round_to(tensor.p[i], p);
        for (int j = 0; j < N; j++)
            tensor.write(j, i, state[j], scales[j]);
        if constexpr (sizeof(P) != sizeof(G))
            round_to(tensor.copy[i], p);
    }
};

#ifdef HOST
}  // namespace refoptim
#include "../host/coded.h"
namespace refoptim {
#endif

template <class Rule, class P, class G, int N> struct CodedStep {
    using Element = CodedElement<Rule, N>;
    using All = typename UpTo<N>::Type;
    const typename Rule::template Record<float>& s;
    const Preparation<Arithmetic<P>>& prepare;
    CodedTensor<P, G, N> tensor;

    __device__ void update(i64 begin, i64 end, const float* before, const float* after) const {
        for (i64 i = begin + threadIdx.x; i < end; i += blockDim.x)
            Element(s, prepare, tensor, i, before, All()).store(tensor, i, after);
    }

    // Updates a chunk of a parameter that has no codes.
    __device__ void update_plain(const Bucket& b, const Part& part) const {
        [[maybe_unused]] const i64 end = part.start + part.size;
#ifdef HOST
        if constexpr (sizeof(P) == sizeof(float)) {
            Chunk<P, G, N> chunk(b, part);
            chunk.copy = tensor.copy ? tensor.copy + part.start : nullptr;
            update_chunk<Rule>(s, prepare, chunk);
        } else {
            for (i64 i = part.start; i < end; i += MOST)
                update_held<Rule>(s, prepare, tensor, i, end - i < MOST ? end - i : MOST, 0, All());
        }
#else
        const float none[N] = {};
        update(part.start, end, none, none);
#endif
    }

    // Updates block number k of `length` elements.
    __device__ void update_block(i64 k, i64 length, float* shared) const {
#ifdef HOST
        if (update_held<Rule>(s, prepare, tensor, k * length, length, k, All()))
            return;
#endif
        float before[N], after[N];
        for (int j = 0; j < N; j++)
            before[j] = tensor.scales[j][k], after[j] = 0;
        for (i64 i = k * length + threadIdx.x; i < (k + 1) * length; i += blockDim.x) {
            Element element(s, prepare, tensor, i, before, All());
            for (int j = 0; j < N; j++)
                after[j] = maximum(after[j], absolute(element.state[j]));
        }
        for (int j = 0; j < N; j++)
            after[j] = maximum(largest(after[j], shared), FLOOR);
        update(k * length, (k + 1) * length, before, after);
        for (int j = 0; j < N; j++)
            if (!threadIdx.x)
                tensor.scales[j][k] = after[j];
    }
};

template <class Rule, class P, class G, int N, class T = Arithmetic<P>>
__device__ inline void run_coded(const typename Rule::template Record<T>& by_value, const Bucket& b) {
    if (b.found_inf && *b.found_inf)
        return;
#ifdef HOST
    float* shared = nullptr;
#else
    __shared__ float shared[THREADS];
#endif
    typename Rule::template Record<float> s;
    copy_numbers((float*)&s, b.record ? (const T*)b.record : (const T*)&by_value, sizeof(s) / sizeof(float));
    const Preparation<T> prepare(b);
    const i64 length = i64(s.block_size);
    for (i64 c = blockIdx.x; c < b.chunks; c += gridDim.x) {
        const Part part(b, c);
        const CodedStep<Rule, P, G, N> step{s, prepare, CodedTensor<P, G, N>(b, part.tensor)};
        const i64 end = part.start + part.size;
        if (step.tensor.scales[0])
            for (i64 k = (part.start + length - 1) / length; k * length < end; k++)
                step.update_block(k, length, shared);
        else
            step.update_plain(b, part);
    }
}

#define CODED_ENTRY(NAME, RULE, N, P, G)                                                      \
    KERNEL(NAME)(RULE::Record<Arithmetic<P>> s, Bucket b) { run_coded<RULE, P, G, N>(s, b); } \
    EXPORT(NAME)

#define CODED_ENTRIES(NAME, RULE, N) EACH_STORAGE(CODED_ENTRY, NAME, RULE, N)

}  // namespace refoptim
