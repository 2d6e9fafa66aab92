// The sum of the pieces of a gradient: the twin of refoptim/distributed/order.py. kernels/order.py launches it.
//
// A program says in steps how pieces are added. A step sums some in adjacent pairs, two to the power of its level, and
// joins the sum with some that wait. Pieces may be stored in the arithmetic type although others have 16 bits: such a
// step is wide.
#include "harness/multi_tensor.cuh"

namespace refoptim {

namespace order {

// The largest level of a step: so many sums are in registers.
constexpr int LEVELS = 3;

// Sums that can wait at once; which of them is used is known at run time, so a device has them in its local memory.
constexpr int WAITING = 8;

// Vectors that a thread sums at once: of a host, so that following the program takes little of its time.
#ifdef HOST
constexpr int TURNS = 2;
#else
constexpr int TURNS = 1;
#endif

// `past_caches` says that a host is to write past its caches: what is written is more than they hold.
struct Program {
    const int* numbers;
    i64 steps, wide_sum, past_caches;

    __device__ bool is_wide(i64 step) const { return numbers[step] & 1; }
    __device__ int level(i64 step) const { return numbers[step] >> 1 & 3; }
    __device__ int joins(i64 step) const { return numbers[step] >> 3; }
};

// A sum is divided by `count`, or multiplied by `share`, its inverse, where that is exact; else `share` is 0.
template <class T> struct Divisor {
    T count, share;

    template <class X> __device__ X operator()(X x) const { return share != 0 ? mul(x, share) : div(x, count); }
};

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

// U vectors of V numbers, W of them side by side.
template <class T, int V, int W, int U> struct Values {
    typename Number<T, W>::Type x[U * V / W];

    template <class S> __device__ void load(const S* from) {
        for (int u = 0; u < U; u++) {
            const Vector<S, V> vector = ((const Vector<S, V>*)from)[u];
            for (int v = 0; v < V; v += W)
                read(x[(u * V + v) / W], vector, v);
        }
    }

    template <class S> __device__ void store(S* to, Divisor<T> divided, bool past_caches) const {
        for (int u = 0; u < U; u++) {
            Vector<S, V> vector;
            for (int v = 0; v < V; v += W)
                write(vector, v, divided(x[(u * V + v) / W]));
            put((Vector<S, V>*)to + u, vector, past_caches);
        }
    }

    // Adds what comes after it in the sum.
    __device__ void join(const Values& next) {
        for (int i = 0; i < U * V / W; i++)
            x[i] = add(x[i], next.x[i]);
    }
};

// Pieces of storage N that are summed in adjacent pairs, two to the power of LEVEL.
template <class N, int LEVEL> struct Pieces {
    const N* from[1 << LEVEL];

    template <class C> __device__ Pieces(const C& chunk, i64 row) {
        for (int k = 0; k < 1 << LEVEL; k++)
            from[k] = chunk.template at<N>(row + k);
    }

    template <int L = LEVEL, class X> __device__ void add(X& total, i64 i, int first = 0) const {
        if constexpr (L == 0) {
            total.load(from[first] + i);
        } else {
            X next;
            add<L - 1>(total, i, first);
            add<L - 1>(next, i, first + (1 << (L - 1)));
            total.join(next);
        }
    }
};

// A chunk of the sum of pieces of storage S: the addresses of the sum and of each piece stand `apart` in a table.
template <class S, class T = Arithmetic<S>> struct Chunk {
    const i64* addresses;
    i64 apart, start;
    Program program;

    template <class N> __device__ N* at(i64 row) const { return (N*)addresses[row * apart] + start; }

    // How far the memory of a row is from where it can be read at once.
    template <class N> __device__ i64 off(i64 row) const { return (i64)at<N>(row) % alignof(Vector<N, AT_ONCE<T, S>>); }

    __device__ bool aligned() const {
        i64 all = program.wide_sum ? off<T>(0) : off<S>(0), row = 1;
        for (i64 step = 0; step < program.steps; step++)
            for (i64 end = row + (1 << program.level(step)); row < end; row++)
                all |= program.is_wide(step) ? off<T>(row) : off<S>(row);
        return all == 0;
    }

    template <class X> __device__ void store(const X& total, i64 i, Divisor<T> divided, bool past_caches) const {
        if (program.wide_sum)
            total.store(at<T>(0) + i, divided, past_caches);
        else
            total.store(at<S>(0) + i, divided, past_caches);
    }

    // Calls f(pieces) for those of a step, which begin at a row of the table.
    template <int LEVEL = LEVELS, class F> __device__ void with_step(i64 step, i64 row, F f) const {
        if (program.level(step) == LEVEL) {
            if (program.is_wide(step))
                f(Pieces<T, LEVEL>(*this, row));
            else
                f(Pieces<S, LEVEL>(*this, row));
        } else if constexpr (LEVEL > 0) {
            with_step<LEVEL - 1>(step, row, f);
        }
    }

    // Sums the numbers from place i on.
    template <class X> __device__ X sum(i64 i) const {
        X total{}, waiting[WAITING];
        int count = 0;
        for (i64 step = 0, row = 1; step < program.steps; row += 1 << program.level(step), step++) {
            if (step)
                waiting[count++] = total;
            with_step(step, row, [&](const auto& pieces) { pieces.add(total, i); });
            for (int joins = program.joins(step); joins; joins--) {
                X before = waiting[--count];
                before.join(total);
                total = before;
            }
        }
        return total;
    }

    template <int V, int W, int U>
    __device__ void sum_all(i64 begin, i64 end, Divisor<T> divided, bool past_caches = false) const {
        using X = Values<T, V, W, U>;
        if (program.steps > 1)
            for (i64 i = begin + threadIdx.x * V * U; i + V * U <= end; i += blockDim.x * V * U)
                store(sum<X>(i), i, divided, past_caches);
        else if (program.wide_sum)
            sum_step<X, V * U>(at<T>(0), begin, end, divided, past_caches);
        else
            sum_step<X, V * U>(at<S>(0), begin, end, divided, past_caches);
    }

    // A sum that is one step: what the loop needs is at hand, in registers.
    template <class X, int SIZE, class N>
    __device__ void sum_step(N* to, i64 begin, i64 end, Divisor<T> divided, bool past_caches) const {
        with_step(0, 1, [=](auto pieces) {
            for (i64 i = begin + threadIdx.x * SIZE; i + SIZE <= end; i += blockDim.x * SIZE) {
                X total;
                pieces.add(total, i);
                total.store(to + i, divided, past_caches);
            }
        });
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
    constexpr int V = AT_ONCE<T, S>, W = SIDE_BY_SIDE<T>, AT_ONE_GO = V * TURNS;
    for (i64 c = blockIdx.x; c < b.chunks; c += gridDim.x) {
        const Part part(b, c);
        const Chunk<S> chunk{b.tables + b.tensors + part.tensor, b.tensors, part.start, program};
        i64 first = chunk.first() < part.size ? chunk.first() : part.size;
        i64 end = chunk.aligned() ? part.size - (part.size - first) % AT_ONE_GO : first;
        chunk.template sum_all<1, 1, 1>(0, first, divided);
        chunk.template sum_all<V, W, TURNS>(first, end, divided, program.past_caches);
        chunk.template sum_all<1, 1, 1>(end, part.size, divided);
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
