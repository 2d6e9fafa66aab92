// What kernels over whole vectors have in common: elements are shared out to blocks in parts, and sums on the way.
#pragma once

#include "tree.cuh"

namespace refoptim {

// Elements that a block works on in one go.
constexpr i64 PART = 1 << 12;

// Calls f(i) for i = 0, 1 … n - 1; blocks stride over parts, threads over the elements of a part.
template <class F> __device__ inline void for_each_element(i64 n, F f) {
    for (i64 start = blockIdx.x * PART; start < n; start += gridDim.x * PART) {
        i64 end = start + PART < n ? start + PART : n;
        for (i64 i = start + threadIdx.x; i < end; i += blockDim.x)
            f(i);
    }
}

// What is summed, one value per element: what `step(x[0][i], x[1][i], …)` returns. It may change the elements it is given;
// the first OUT arrays are written, those from number IN on are read.
template <class Step, class S, int N, int OUT, int IN> struct Walk {
    using T = S;
    static constexpr int V = AT_ONCE<T, T>;
    Step step;
    T* x[N];

    __device__ bool together(i64 i) const {
        i64 bits = 0;
        for (int j = 0; j < N; j++)
            bits |= (i64)(x[j] + i);
        return bits % alignof(Vector<T, V>) == 0;
    }

    template <int V, int W, class X> __device__ void values(i64 i, X* to) const {
        give<V, W>(i, to, typename UpTo<N>::Type());
    }

    template <int V, int W, class X, int... J> __device__ void give(i64 i, X* to, Numbers<J...>) const {
        Vector<T, V> vectors[N] = {(J < IN ? Vector<T, V>{} : *(const Vector<T, V>*)(x[J] + i))...};
        for (int v = 0; v < V; v += W) {
            X here[N];
            (read(here[J], vectors[J], v), ...);
            to[v / W] = step(here[J]...);
            (write(vectors[J], v, here[J]), ...);
        }
        for (int j = 0; j < OUT; j++)
            *(Vector<T, V>*)(x[j] + i) = vectors[j];
    }
};

// Goes over n elements of some arrays and sums, run by run, what the step returns.
template <int OUT, int IN, class T, class Step, class... A>
__device__ inline void walk(Step step, i64 n, T* sums, A*... x) {
    sum_runs(Walk<Step, T, sizeof...(A), OUT, IN>{step, {const_cast<T*>(x)...}}, n, sums);
}

}  // namespace refoptim
