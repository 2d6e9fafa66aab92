// The sum of the pieces of a gradient: the twin of refoptim/distributed/order.py. kernels/order.py launches it.
//
// A program says in steps how pieces are added. A step sums a few in adjacent pairs, and joins the sum with some that
// wait. Pieces may be stored in the arithmetic type although others have 16 bits: such a step is wide.
#include "harness/multi_tensor.cuh"

namespace refoptim {

namespace order {

// The most pieces of a step: so many sums are in registers.
constexpr int PIECES = 8;

// Sums that can wait at once; which of them is used is known at run time, so a device has them in its local memory.
constexpr int WAITING = 8;

// Of a host: the places of a chunk at which one or two pieces are read in turns, since memory is faster so; and the
// vectors that a step sums before the next step does, so that following the program takes little of its time.
#ifdef HOST
constexpr int PLACES = 2, RUN = 8;
#else
constexpr int PLACES = 1, RUN = 1;
#endif

// `past_caches` says that a host is to write past its caches: what is written is more than they hold.
struct Program {
    const int* numbers;
    i64 steps, wide_sum, past_caches;

    __device__ bool is_wide(i64 step) const { return numbers[step] & 1; }
    __device__ int pieces(i64 step) const { return numbers[step] >> 1 & 15; }
    __device__ int joins(i64 step) const { return numbers[step] >> 5; }
};

// A sum is divided by `count`, or multiplied by `share`, its inverse, where that is exact; else `share` is 0.
template <class T> struct Divisor {
    T count, share;

    template <class X> __device__ X operator()(X x) const { return share != 0 ? mul(x, share) : div(x, count); }
};

// A vector as it is read: by a device at once, into a copy; by a host where it lies, since g++ copies it in parts.
#ifdef HOST
template <class X> using Read = const X&;
#else
template <class X> using Read = const X;
#endif

template <class X> __device__ inline void put(X* to, const X& vector, bool past_caches) {
#ifdef HOST
    if constexpr (sizeof vector == sizeof(Floats)) {
        Floats words;
        memcpy(&words, &vector, sizeof words);
        if (past_caches)
            return write_past_caches(to, words);
    }
#endif
    *to = vector;
}

// U vectors of V numbers, W of them side by side, each `apart` in memory from the one before.
template <class T, int V, int W, int U> struct Values {
    typename Number<T, W>::Type x[U][V / W];

    template <class S> __device__ __forceinline__ void load(const S* from, i64 apart) {
        for (int u = 0; u < U; u++) {
            Read<Vector<S, V>> vector = *(const Vector<S, V>*)(from + u * apart);
            for (int v = 0; v < V; v += W)
                read(x[u][v / W], vector, v);
        }
    }

    template <class S>
    __device__ __forceinline__ void store(S* to, i64 apart, Divisor<T> divided, bool past_caches) const {
        for (int u = 0; u < U; u++) {
            Vector<S, V> vector;
            for (int v = 0; v < V; v += W)
                write(vector, v, divided(x[u][v / W]));
            put((Vector<S, V>*)(to + u * apart), vector, past_caches);
        }
    }

    // Adds what comes after it in the sum.
    __device__ __forceinline__ void join(const Values& next) {
        for (int u = 0; u < U; u++)
            for (int i = 0; i < V / W; i++)
                x[u][i] = add(x[u][i], next.x[u][i]);
    }
};

// The largest power of two below a number above 1: so many of `count` pieces are summed before the others.
__device__ constexpr int half(int count) {
    int found = 1;
    while (2 * found < count)
        found *= 2;
    return found;
}

// Pieces of storage N that are summed in adjacent pairs; one that has no neighbour goes up as it is.
template <class N, int COUNT> struct Pieces {
    static constexpr int places = COUNT <= 2 ? PLACES : 1;
    const N* from[COUNT];

    template <class C> __device__ Pieces(const C& chunk, i64 row) {
        for (int k = 0; k < COUNT; k++)
            from[k] = chunk.template at<N>(row + k);
    }

    template <int C = COUNT, class X>
    __device__ __forceinline__ void add(X& total, i64 i, i64 apart, int first = 0) const {
        if constexpr (C == 1) {
            total.load(from[first] + i, apart);
        } else {
            X next;
            add<half(C)>(total, i, apart, first);
            add<C - half(C)>(next, i, apart, first + half(C));
            total.join(next);
        }
    }
};

// A chunk of the sum of pieces of storage S: the addresses of the sum and of each piece stand `apart` in a table.
template <class S, class T = Arithmetic<S>> struct Chunk {
    static constexpr bool NARROW = sizeof(S) < sizeof(T);  // else a sum in the arithmetic type is one as all others
    const i64* addresses;
    i64 apart, start;
    Program program;

    template <class N> __device__ N* at(i64 row) const { return (N*)addresses[row * apart] + start; }

    // How far the memory of a row is from where it can be read at once.
    template <class N> __device__ i64 off(i64 row) const { return (i64)at<N>(row) % alignof(Vector<N, AT_ONCE<T, S>>); }

    __device__ bool aligned() const {
        i64 all = program.wide_sum ? off<T>(0) : off<S>(0), row = 1;
        for (i64 step = 0; step < program.steps; step++)
            for (i64 end = row + program.pieces(step); row < end; row++)
                all |= program.is_wide(step) ? off<T>(row) : off<S>(row);
        return all == 0;
    }

    template <class X>
    __device__ void store(const X& total, i64 i, i64 apart, Divisor<T> divided, bool past_caches) const {
        if (NARROW && program.wide_sum)
            total.store(at<T>(0) + i, apart, divided, past_caches);
        else
            total.store(at<S>(0) + i, apart, divided, past_caches);
    }

    // Calls f(pieces) for those of a step, which begin at a row of the table.
    template <int COUNT = PIECES, class F> __device__ void with_step(i64 step, i64 row, F f) const {
        if (program.pieces(step) == COUNT) {
            if (NARROW && program.is_wide(step))
                f(Pieces<T, COUNT>(*this, row));
            else
                f(Pieces<S, COUNT>(*this, row));
        } else if constexpr (COUNT > 1) {
            with_step<COUNT - 1>(step, row, f);
        }
    }

    // Sums the numbers of U vectors from place i on.
    template <int V, int W, int U> __device__ void sum(i64 i, Divisor<T> divided, bool past_caches) const {
        Values<T, V, W, U> sums[WAITING + 1];
        int count = 0;
        for (i64 step = 0, row = 1; step < program.steps; row += program.pieces(step), step++, count++) {
            with_step(step, row, [&](const auto& pieces) { pieces.add(sums[count], i, V); });
            for (int joins = program.joins(step); joins; joins--, count--)
                sums[count - 1].join(sums[count]);
        }
        store(sums[0], i, V, divided, past_caches);
    }

    // Sums numbers, U vectors at a time, and returns where it ended.
    template <int V, int W, int U>
    __device__ i64 sum_steps(i64 begin, i64 end, Divisor<T> divided, bool past_caches) const {
        i64 i = begin + threadIdx.x * V * U;
        for (; i + V * U <= end; i += blockDim.x * V * U)
            sum<V, W, U>(i, divided, past_caches);
        return i;
    }

    // Sums numbers by the one step that there is: what the loop needs is at hand, in registers.
    template <int V, int W> __device__ void sum_step(i64 begin, i64 end, Divisor<T> divided, bool past_caches) const {
        with_step(0, 1, [=, this](auto pieces) {
            constexpr int U = decltype(pieces)::places;
            i64 apart = (end - begin) / U;
            for (i64 i = begin + threadIdx.x * V; i + V <= begin + apart; i += blockDim.x * V) {
                Values<T, V, W, U> total;
                pieces.add(total, i, apart);
                store(total, i, apart, divided, past_caches);
            }
        });
    }

    template <int V, int W> __device__ void sum_all(i64 begin, i64 end, Divisor<T> divided, bool past_caches) const {
        if constexpr (V > 1)
            if (program.steps == 1)
                return sum_step<V, W>(begin, end, divided, past_caches);
        begin = sum_steps<V, W, V == 1 ? 1 : RUN>(begin, end, divided, past_caches);
        if (V > 1 && RUN > 1)
            sum_steps<V, W, 1>(begin, end, divided, past_caches);
    }

    // The first number of the sum that fills a register of a host with others and lies in one line of a cache with them.
    __device__ i64 first() const {
#ifdef HOST
        i64 width = program.wide_sum ? sizeof(T) : sizeof(S), begin = addresses[0] + start * width;
        return (-begin & (REGISTER - 1)) / width;
#else
        return 0;
#endif
    }
};

// Sums pieces; the tables of a bucket hold the size of each sum, its address, and those of its pieces.
template <class S, class T = Arithmetic<S>>
__device__ inline void sum_pieces(const Bucket& b, const Program& program, Divisor<T> divided) {
    constexpr int V = AT_ONCE<T, S>, W = SIDE_BY_SIDE<T>, TOGETHER = V * PLACES;
    for (i64 c = blockIdx.x; c < b.chunks; c += gridDim.x) {
        const Part part(b, c);
        const Chunk<S> chunk{b.tables + b.tensors + part.tensor, b.tensors, part.start, program};
        i64 first = chunk.first() < part.size ? chunk.first() : part.size;
        i64 end = chunk.aligned() ? part.size - (part.size - first) % TOGETHER : first;
        chunk.template sum_all<1, 1>(0, first, divided, false);
        chunk.template sum_all<V, W>(first, end, divided, program.past_caches);
        chunk.template sum_all<1, 1>(end, part.size, divided, false);
    }
#ifdef HOST
    finish_writes();
#endif
}

}  // namespace order

#define PIECES(NAME, S)                                                                           \
    KERNEL(order_sums_##NAME)                                                                     \
    (Bucket b, const int* numbers, i64 steps, i64 wide_sum, i64 past_caches, Arithmetic<S> count, \
     Arithmetic<S> share) {                                                                       \
        order::sum_pieces<S>(b, {numbers, steps, wide_sum, past_caches}, {count, share});         \
    }                                                                                             \
    EXPORT(order_sums_##NAME)

PIECES(float64, double)
PIECES(float32, float)
PIECES(float16, float16)
PIECES(bfloat16, bfloat16)

#undef PIECES

}  // namespace refoptim
