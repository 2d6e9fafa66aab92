// Whole vectors: the twin of refoptim/optimizers/vector.py. Sums come run by run; `vector_fold` sums the sums of runs.
#include "harness/vector.cuh"

namespace refoptim {

namespace vector {

struct Dot {
    template <class X> __device__ X operator()(X x, X y) const { return mul(x, y); }
};

struct Absolute {
    template <class X> __device__ X operator()(X x) const { return absolute(x); }
};

struct Downhill {
    template <class X> __device__ X operator()(X& d, X g) const {
        d = neg(g);
        return mul(g, d);
    }
};

// The largest absolute value among `count` elements, NaN if one is NaN, as far as this thread sees them.
template <class T> __device__ inline T largest_seen(const T* x, i64 count) {
    constexpr int W = SIDE_BY_SIDE<T>;
    typename Number<T, W>::Type pack, most{};
    for (i64 i = threadIdx.x; i < count / W; i += blockDim.x) {
        read(pack, *(const Vector<T, W>*)(x + i * W), 0);
        most = maximum(most, absolute(pack));
    }
    Vector<T, W> lanes;
    write(lanes, 0, most);
    for (i64 i = count / W * W + threadIdx.x; i < count; i += blockDim.x)
        lanes.x[0] = maximum(lanes.x[0], absolute(x[i]));
    for (int w = 1; w < W; w++)
        lanes.x[0] = maximum(lanes.x[0], lanes.x[w]);
    return lanes.x[0];
}

// Writes the largest absolute value of each part.
template <class T> __device__ inline void find_largest(const T* x, i64 n, T* of_parts, T* seen) {
    for (i64 part = blockIdx.x; part == 0 || part * PART < n; part += gridDim.x) {
        i64 rest = n - part * PART;
        seen[threadIdx.x] = largest_seen(x + part * PART, rest < PART ? rest : PART);
        __syncthreads();
        for (int count = blockDim.x, half; count > 1; count = half) {
            half = (count + 1) / 2;
            if ((int)threadIdx.x + half < count)
                seen[threadIdx.x] = maximum(seen[threadIdx.x], seen[threadIdx.x + half]);
            __syncthreads();
        }
        if (threadIdx.x == 0)
            of_parts[part] = seen[0];
        __syncthreads();
    }
}

// Moves arrays by t times d from `origin`, or from where they are if it is null. The table holds for each part of an array
// its address, then for each where in the vectors it begins, then its size.
template <class T> __device__ inline void move(const i64* table, i64 parts, const T* d, const T* origin, T t) {
    for (i64 part = blockIdx.x; part < parts; part += gridDim.x) {
        T* x = (T*)table[part];
        i64 begin = table[parts + part], size = table[2 * parts + part];
        const T* source = origin ? origin + begin : x;
        for (i64 i = threadIdx.x; i < size; i += blockDim.x)
            x[i] = axpy(source[i], d[begin + i], t);
    }
}

}  // namespace vector

#define VECTOR(T, NAME)                                                                                             \
    KERNEL(vector_fold_##NAME)(i64 n, T* sums, const T* x) { walk<0, 0>(Itself(), n, sums, x); }                    \
    EXPORT(vector_fold_##NAME)                                                                                      \
    KERNEL(vector_dot_##NAME)(i64 n, T* sums, const T* x, const T* y) { walk<0, 0>(vector::Dot(), n, sums, x, y); } \
    EXPORT(vector_dot_##NAME)                                                                                       \
    KERNEL(vector_absolute_##NAME)(i64 n, T* sums, const T* x) { walk<0, 0>(vector::Absolute(), n, sums, x); }      \
    EXPORT(vector_absolute_##NAME)                                                                                  \
    KERNEL(vector_downhill_##NAME)(i64 n, T* sums, T* d, const T* g) {                                              \
        walk<1, 1>(vector::Downhill(), n, sums, d, g);                                                              \
    }                                                                                                               \
    EXPORT(vector_downhill_##NAME)                                                                                  \
    KERNEL(vector_negated_##NAME)(i64 n, T* out, const T* x) {                                                      \
        for_each_element(n, [&](i64 i) { out[i] = neg(x[i]); });                                                    \
    }                                                                                                               \
    EXPORT(vector_negated_##NAME)                                                                                   \
    KERNEL(vector_largest_##NAME)(i64 n, T* of_parts, const T* x) {                                                 \
        __shared__ T seen[THREADS];                                                                                 \
        vector::find_largest(x, n, of_parts, seen);                                                                 \
    }                                                                                                               \
    EXPORT(vector_largest_##NAME)                                                                                   \
    KERNEL(vector_move_##NAME)(const i64* table, i64 parts, const T* d, const T* origin, T t) {                     \
        vector::move(table, parts, d, origin, t);                                                                   \
    }                                                                                                               \
    EXPORT(vector_move_##NAME)

VECTOR(double, float64)
VECTOR(float, float32)

}  // namespace refoptim
