// The sum of the pieces of a gradient: the twin of refoptim/distributed/order.py. kernels/order.py launches it.
//
// A program says how pieces are added: for each, in order, how many sums that wait are joined with it, times two; plus 1
// for a piece that is stored in the arithmetic type although others have 16 bits.
#include "harness/multi_tensor.cuh"

namespace refoptim {

namespace order {

// Sums that can wait at once; which of them is used is known at run time, so a device has them in its local memory.
constexpr int WAITING = 8;

// Vectors that a thread sums at once: of a host, so that following the program takes little of its time.
#ifdef HOST
constexpr int TURNS = 4;
#else
constexpr int TURNS = 1;
#endif

struct Program {
    const int* steps;
    i64 pieces, wide_sum;

    __device__ int joins(i64 piece) const { return steps[piece] >> 1; }
    __device__ bool is_wide(i64 piece) const { return steps[piece] & 1; }
};

// A sum is divided by `count`, or multiplied by `share`, its inverse, where that is exact; else `share` is 0.
template <class T> struct Divisor {
    T count, share;

    template <class X> __device__ X operator()(X x) const { return share != 0 ? mul(x, share) : div(x, count); }
};

// U vectors of V numbers, W of them side by side.
template <class T, int V, int W, int U> struct Values {
    typename Number<T, W>::Type x[U * V / W];

    template <class S> __device__ void load(const S* from) {
        for (int u = 0; u < U; u++) {
            const Vector<S, V> vector = ((const Vector<S, V>*)from)[u];
            FETCH_AHEAD(from + u * V);
            for (int v = 0; v < V; v += W)
                read(x[(u * V + v) / W], vector, v);
        }
    }

    template <class S> __device__ void store(S* to, Divisor<T> divided) const {
        for (int u = 0; u < U; u++) {
            Vector<S, V> vector;
            for (int v = 0; v < V; v += W)
                write(vector, v, divided(x[(u * V + v) / W]));
            ((Vector<S, V>*)to)[u] = vector;
        }
    }

    // Adds what stands before it in the sum.
    __device__ void join(const Values& before) {
        for (int i = 0; i < U * V / W; i++)
            x[i] = add(before.x[i], x[i]);
    }
};

// A chunk of the sum of pieces of storage S: the addresses of the sum and of each piece stand `apart` in a table.
template <class S, class T = Arithmetic<S>> struct Chunk {
    const i64* addresses;
    i64 apart, start;
    Program program;

    template <class N> __device__ N* at(i64 row) const { return (N*)addresses[row * apart] + start; }
    template <class N> __device__ bool fits(i64 row) const {
        return (i64)at<N>(row) % alignof(Vector<N, AT_ONCE<T, S>>) == 0;
    }

    __device__ bool aligned() const {
        bool all = program.wide_sum ? fits<T>(0) : fits<S>(0);
        for (i64 i = 0; i < program.pieces; i++)
            all &= program.is_wide(i) ? fits<T>(1 + i) : fits<S>(1 + i);
        return all;
    }

    // Sums the numbers from place i on.
    template <int V, int W, int U> __device__ void sum(i64 i, Divisor<T> divided) const {
        Values<T, V, W, U> total, waiting[WAITING];
        int count = 0;
        for (i64 piece = 0; piece < program.pieces; piece++) {
            if (piece)
                waiting[count++] = total;
            if (program.is_wide(piece))
                total.load(at<T>(1 + piece) + i);
            else
                total.load(at<S>(1 + piece) + i);
            for (int joins = program.joins(piece); joins; joins--)
                total.join(waiting[--count]);
        }
        if (program.wide_sum)
            total.store(at<T>(0) + i, divided);
        else
            total.store(at<S>(0) + i, divided);
    }

    template <int V, int W, int U> __device__ void sum_all(i64 begin, i64 end, Divisor<T> divided) const {
        for (i64 i = begin + threadIdx.x * V * U; i + V * U <= end; i += blockDim.x * V * U)
            sum<V, W, U>(i, divided);
    }
};

// Sums pieces; the tables of a bucket hold the size of each sum, its address, and those of its pieces.
template <class S, class T = Arithmetic<S>>
__device__ inline void sum_pieces(const Bucket& b, const Program& program, Divisor<T> divided) {
    constexpr int V = AT_ONCE<T, S>, W = SIDE_BY_SIDE<T>, AT_ONE_GO = V * TURNS;
    for (i64 c = blockIdx.x; c < b.chunks; c += gridDim.x) {
        const Part part(b, c);
        const Chunk<S> chunk{b.tables + b.tensors + part.tensor, b.tensors, part.start, program};
        i64 together = chunk.aligned() ? part.size / AT_ONE_GO * AT_ONE_GO : 0;
        chunk.template sum_all<V, W, TURNS>(0, together, divided);
        chunk.template sum_all<1, 1, 1>(together, part.size, divided);
    }
}

}  // namespace order

#define PIECES(NAME, S)                                                                                \
    KERNEL(order_sums_##NAME)                                                                          \
    (Bucket b, const int* steps, i64 pieces, i64 wide_sum, Arithmetic<S> count, Arithmetic<S> share) { \
        order::sum_pieces<S>(b, {steps, pieces, wide_sum}, {count, share});                            \
    }                                                                                                  \
    EXPORT(order_sums_##NAME)

PIECES(float64, double)
PIECES(float32, float)
PIECES(float16, float16)
PIECES(bfloat16, bfloat16)

#undef PIECES

}  // namespace refoptim
