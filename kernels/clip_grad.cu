// The norm of many arrays, and clipping by it: the twin of refoptim/clip_grad.py. kernels/clip_grad.py launches them.
#include "harness/tree.cuh"

namespace refoptim::clip_grad {

struct Magnitude {
    template <class X> __device__ X operator()(X x) const { return absolute(x); }
};

// The largest magnitude: a NaN is larger than any.
struct Largest : Magnitude {
    template <class X> __device__ static X join(X x, X y) { return maximum(x, y); }
};

template <class T> __device__ inline T coefficient(T total_norm, T max_norm) {
    return minimum(reciprocal(add(total_norm, T(1e-6)), max_norm), T(1));
}

// Puts the norms that sums stand for where `places` says.
template <class T, class N>
__device__ inline void place(const T* sums, const i64* places, i64 n, i64 of_squares, N* norms) {
    for (i64 i = i64(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += i64(gridDim.x) * blockDim.x)
        norms[places[i]] = of_squares ? sqrt(sums[i]) : sums[i];
}

template <int V, int W, class S, class T> __device__ inline void scale(S* g, i64 i, T coefficient) {
    Vector<S, V>* at = (Vector<S, V>*)(g + i);
    Vector<S, V> values = *at;
    for (int v = 0; v < V; v += W) {
        typename Number<T, W>::Type x;
        read(x, values, v);
        write(values, v, mul(x, coefficient));
    }
    *at = values;
}

// Multiplies gradients; the tables of their bucket hold the size and the address of each.
template <class S, class T = Arithmetic<S>> __device__ inline void scale_all(const Bucket& b, T coefficient) {
    constexpr int V = AT_ONCE<T, S>, W = SIDE_BY_SIDE<T>;
    for (i64 c = blockIdx.x; c < b.chunks; c += gridDim.x) {
        const Part part(b, c);
        S* g = (S*)b.tables[b.tensors + part.tensor] + part.start;
        i64 vectors = i64(g) % alignof(Vector<S, V>) == 0 ? part.size / V : 0;
        for (i64 i = threadIdx.x; i < vectors; i += blockDim.x)
            scale<V, W>(g, i * V, coefficient);
        for (i64 i = vectors * V + threadIdx.x; i < part.size; i += blockDim.x)
            scale<1, 1>(g, i, coefficient);
    }
}

}  // namespace refoptim::clip_grad

namespace refoptim {

#define OF_STORAGE(NAME, S)                                                                       \
    KERNEL(clip_grad_magnitudes_##NAME)(Sums all) { sum_all<S, 1>(all, clip_grad::Magnitude()); } \
    EXPORT(clip_grad_magnitudes_##NAME)                                                           \
    KERNEL(clip_grad_largest_##NAME)(Sums all) { sum_all<S, 1>(all, clip_grad::Largest()); }      \
    EXPORT(clip_grad_largest_##NAME)                                                              \
    KERNEL(clip_grad_scale_##NAME)(Bucket b, const Arithmetic<S>* coefficient) {                  \
        clip_grad::scale_all<S>(b, *coefficient);                                                 \
    }                                                                                             \
    EXPORT(clip_grad_scale_##NAME)

#define OF_NUMBERS(NAME, T, N)                                                                          \
    KERNEL(clip_grad_place_##NAME)(const T* sums, const i64* places, i64 n, i64 of_squares, N* norms) { \
        clip_grad::place(sums, places, n, of_squares, norms);                                           \
    }                                                                                                   \
    EXPORT(clip_grad_place_##NAME)

#define OF_NUMBER(NAME, T)                                                                               \
    KERNEL(clip_grad_coefficient_##NAME)(const T* total_norm, T max_norm, double* wide, float* narrow) { \
        if (blockIdx.x || threadIdx.x)                                                                   \
            return;                                                                                      \
        T coefficient = clip_grad::coefficient(*total_norm, max_norm);                                   \
        *wide = coefficient;                                                                             \
        *narrow = coefficient;                                                                           \
    }                                                                                                    \
    EXPORT(clip_grad_coefficient_##NAME)

OF_STORAGE(float64, double)
OF_STORAGE(float32, float)
OF_STORAGE(float16, float16)
OF_STORAGE(bfloat16, bfloat16)
OF_NUMBERS(float64_float64, double, double)
OF_NUMBERS(float32_float64, float, double)
OF_NUMBERS(float32_float32, float, float)
OF_NUMBER(float64, double)
OF_NUMBER(float32, float)

#undef OF_STORAGE
#undef OF_NUMBERS
#undef OF_NUMBER

}  // namespace refoptim
