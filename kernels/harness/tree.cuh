// The one order of summation: the twin of refoptim/numerics/tree.py.
//
// A run of WIDTH values is folded in halves: value i with value i + WIDTH / 2, down to one. That is a tree whose last
// addition joins the values at even places with those at odd ones, so it can be walked from there: a thread folds values
// PLACES apart in its registers, and the PLACES values that are left of each run are folded in shared memory. Values past
// the end are +0, and +0 is added to the sum of a run; that changes nothing but the sign of zeros on the way.
//
// What is summed is an object f of a type F:
//     F::T                         the arithmetic type of the values
//     F::V                         how many values are read at once
//     f.together(i)                whether V values from place i on can be read at once; alike for places V * PLACES apart
//     f.values<V, W>(i, X* to)     gives the V values from place i on, W side by side in an X
//     F::join(x, y)                if it is there, takes the place of addition
#pragma once

#include "multi_tensor.cuh"

namespace refoptim {

namespace tree {

constexpr i64 WIDTH = 1024;

#ifdef HOST
constexpr int PLACES = 32;
#else
constexpr int PLACES = 128;
#endif

// Runs that a block folds at once: it is called a tile.
constexpr int RUNS = 16;

}  // namespace tree

// The sums of an array of shape (outer, n, inner) along the axis of length n: one per run, shape (outer, runs, inner).
template <class T> struct Sum {
    i64 outer, n, inner;
    T* sums;

    __device__ i64 runs() const { return n > tree::WIDTH ? (n + tree::WIDTH - 1) / tree::WIDTH : 1; }
};

// The values of function(x[0][i], x[1][i], ...) in the words.
template <class Function, class S, int N = 1> struct Elementwise {
    using T = Arithmetic<S>;
    static constexpr int V = AT_ONCE<T, S>;
    const S* x[N];
    Function function;

    __device__ bool together(i64 i) const {
        i64 bits = 0;
        for (int j = 0; j < N; j++)
            bits |= (i64)(x[j] + i);
        return bits % alignof(Vector<S, V>) == 0;
    }

    template <class X>
        requires requires(X x) { Function::join(x, x); }
    __device__ static X join(X x, X y) {
        return Function::join(x, y);
    }

    template <int V, int W, class X> __device__ void values(i64 i, X* to) const {
        give<V, W>(i, to, typename UpTo<N>::Type());
    }

    template <int V, int W, class X, int... J> __device__ void give(i64 i, X* to, Numbers<J...>) const {
        const Vector<S, V> from[N] = {*(const Vector<S, V>*)(x[J] + i)...};
        for (int v = 0; v < V; v += W) {
            X here[N];
            (read(here[J], from[J], v), ...);
            to[v / W] = function(here[J]...);
        }
    }
};

template <class X> __device__ inline X square(X x) { return mul(x, x); }

struct Itself {
    template <class X> __device__ X operator()(X x) const { return x; }
};

struct Square {
    template <class X> __device__ X operator()(X x) const { return square(x); }
};

struct Product {
    template <class X> __device__ X operator()(X x, X y) const { return mul(x, y); }
};

namespace tree {

// Places of which a short run has values: the smallest power of two, at least a vector.
__device__ inline int places(i64 n, int least) {
    int places = least;
    while (places < n && places < PLACES)
        places *= 2;
    return places;
}

// V values, W side by side.
template <class F> struct Values {
    using T = typename F::T;
    static constexpr int V = F::V, W = SIDE_BY_SIDE<T>;
    typename Number<T, W>::Type x[V / W];
};

// Where the n values of a run are: value k at start + k * step. Beside it are values of the same run, if they are
// consecutive, or else of other runs, of which there are `columns` from this one on.
struct Line {
    i64 start, n, step, columns;

    __device__ i64 at(i64 k) const { return start + k * step; }
    __device__ i64 rest(i64 k) const { return columns && k < n ? columns : n - k; }
};

template <class F, class X> __device__ inline X joined(X x, X y) {
    if constexpr (requires { F::join(x, y); })
        return F::join(x, y);
    else
        return add(x, y);
}

// Functions that are kept out of line are compiled once, which takes a compiler long enough.
#define OUT_OF_LINE __attribute__((noinline)) __device__

// Reads V values from place i on, of which `rest` are there.
template <class F> OUT_OF_LINE Values<F> read_some(const F& f, i64 i, i64 rest) {
    using T = typename F::T;
    constexpr int V = Values<F>::V, W = Values<F>::W;
    Values<F> out{};
    if (rest >= V && f.together(i)) {
        f.template values<V, W>(i, out.x);
    } else if (rest > 0) {
        Vector<T, V> some{};
        for (int v = 0; v < V && v < rest; v++)
            f.template values<1, 1>(i + v, &some.x[v]);
        for (int v = 0; v < V; v += W)
            read(out.x[v / W], some, v);
    }
    return out;
}

// Folds J vectors of a run `apart` from one another, the first at place k.
template <bool WHOLE, int J, class F> __device__ inline Values<F> fold(const F& f, const Line& line, i64 k, i64 apart) {
    constexpr int V = Values<F>::V, W = Values<F>::W;
    Values<F> out{};
    if (!WHOLE && line.rest(k) <= 0)
        return out;
    if constexpr (J > 1) {
        Values<F> even = fold<WHOLE, J / 2>(f, line, k, 2 * apart),
                  odd = fold<WHOLE, J / 2>(f, line, k + apart, 2 * apart);
        for (int v = 0; v < V / W; v++)
            out.x[v] = joined<F>(even.x[v], odd.x[v]);
    } else if constexpr (WHOLE) {
        f.template values<V, W>(line.at(k), out.x);
    } else {
        out = read_some(f, line.at(k), line.rest(k));
    }
    return out;
}

// Folds all vectors of a run PLACES apart, the first at place k, and writes what is left.
template <class F> OUT_OF_LINE void fold_place(const F& f, const Line& line, i64 k, typename F::T* to) {
    constexpr int J = WIDTH / PLACES, V = Values<F>::V, W = Values<F>::W;
    bool whole = line.rest(k + WIDTH - PLACES) >= V && f.together(line.at(k));
    Values<F> left;
    if (whole)
        left = fold<true, J>(f, line, k, PLACES);
    else if (line.n > PLACES)
        left = fold<false, J>(f, line, k, PLACES);
    else
        left = read_some(f, line.at(k), line.rest(k));
    Vector<typename F::T, V> vector;
    for (int v = 0; v < V; v += W)
        write(vector, v, left.x[v / W]);
    for (int v = 0; v < V; v++)
        to[v] = vector.x[v];
}

// Sums runs of consecutive values.
template <class F>
__device__ inline void sum_along(const F& f, const Sum<typename F::T>& s, i64 tile, typename F::T* left) {
    constexpr int V = F::V;
    i64 runs = s.runs(), first = tile * RUNS, rest = s.outer * runs - first;
    int count = rest < RUNS ? rest : RUNS, places = tree::places(s.n, V), vectors = places / V;
    for (int i = threadIdx.x; i < count * vectors; i += blockDim.x) {
        i64 run = first + i / vectors, k = i % vectors * V;
        i64 outer = runs == 1 ? run : run / runs, start = (run - outer * runs) * WIDTH, rest = s.n - start;
        Line line{outer * s.n + start, rest < WIDTH ? rest : WIDTH, 1, 0};
        fold_place(f, line, k, left + i * V);
    }
    __syncthreads();
    for (int half = places / 2; half; half /= 2) {
        for (int i = threadIdx.x; i < count * half; i += blockDim.x) {
            int j = i / half * places + i % half;
            left[j] = joined<F>(left[j], left[j + half]);
        }
        __syncthreads();
    }
    for (int i = threadIdx.x; i < count; i += blockDim.x)
        s.sums[first + i] = add(left[i * places], typename F::T{});
    __syncthreads();
}

// Sums runs of adjacent columns.
template <class F>
__device__ inline void sum_across(const F& f, const Sum<typename F::T>& s, i64 tile, typename F::T* left) {
    constexpr int V = F::V, VECTORS = RUNS / V;
    i64 tiles = (s.inner + RUNS - 1) / RUNS, column = tile % tiles * RUNS, run = tile / tiles;
    i64 outer = run / s.runs(), start = run % s.runs() * WIDTH, rest = s.n - start, columns = s.inner - column;
    int places = tree::places(s.n, 1);
    for (int i = threadIdx.x; i < places * VECTORS; i += blockDim.x) {
        i64 k = i / VECTORS, c = i % VECTORS * V, from = (outer * s.n + start) * s.inner + column + c;
        Line line{from, c >= columns ? 0 : rest < WIDTH ? rest : WIDTH, s.inner, columns - c};
        fold_place(f, line, k, left + i * V);
    }
    __syncthreads();
    for (int half = places / 2 * RUNS; half >= RUNS; half /= 2) {
        for (int i = threadIdx.x; i < half; i += blockDim.x)
            left[i] = joined<F>(left[i], left[i + half]);
        __syncthreads();
    }
    for (int i = threadIdx.x; i < RUNS && i < columns; i += blockDim.x)
        s.sums[run * s.inner + column + i] = add(left[i], typename F::T{});
    __syncthreads();
}

#undef OUT_OF_LINE

}  // namespace tree

// The tiles of a sum: as many as `kernels/harness/sums.py` says.
template <class F> __device__ inline void sum_tile(const F& f, const Sum<typename F::T>& s, i64 tile) {
    __shared__ typename F::T left[tree::PLACES * tree::RUNS];
    if (s.inner == 1)
        tree::sum_along(f, s, tile, left);
    else
        tree::sum_across(f, s, tile, left);
}

// Sums all runs of n values.
template <class F> __device__ inline void sum_runs(const F& f, i64 n, typename F::T* sums) {
    Sum<typename F::T> s{1, n, 1, sums};
    for (i64 tile = blockIdx.x; tile * tree::RUNS < s.runs(); tile += gridDim.x)
        sum_tile(f, s, tile);
}

// Many sums in one launch. `tables` holds for each sum its outer, n, inner, the address of its sums and the addresses of
// its N arrays. `parts` holds for each tile of all sums the number of its sum; then that of the tile in it.
struct Sums {
    const i64* tables;
    const int* parts;
    i64 sums, tiles;

    template <class T> __device__ Sum<T> sum(i64 number) const {
        return {row(0)[number], row(1)[number], row(2)[number], (T*)row(3)[number]};
    }

    template <class S> __device__ const S* array(i64 number, int j) const { return (const S*)row(4 + j)[number]; }

    __device__ const i64* row(int i) const { return tables + i * sums; }
    __device__ i64 number(i64 i) const { return parts[i]; }
    __device__ i64 tile(i64 i) const { return parts[tiles + i]; }
};

template <class S, int N, class Function> __device__ inline void sum_all(const Sums& all, const Function& function) {
    for (i64 i = blockIdx.x; i < all.tiles; i += gridDim.x) {
        Elementwise<Function, S, N> f{{}, function};
        for (int j = 0; j < N; j++)
            f.x[j] = all.array<S>(all.number(i), j);
        sum_tile(f, all.sum<Arithmetic<S>>(all.number(i)), all.tile(i));
    }
}

}  // namespace refoptim
