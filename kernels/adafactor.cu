// Adafactor: the twin of refoptim/optimizers/adafactor.py. kernels/adafactor.py launches these kernels in turn.
#include "harness/tree.cuh"

namespace refoptim {

struct Adafactor {
    template <class T> struct Record {
        T omb, rho, eps1, eps2, d, weight_decay, shrink;
        T floor, factored, step_size;
    };

    // What rms(p) and rms(u) say of the step; p and u are the sums of their squares, root_size the root of their number.
    template <class T> __device__ static double step_size(const Record<double>& s, double root_size, T p, T u) {
        double rms_p = double(sqrt(p)) / root_size;
        double norm_u = double(sqrt(u)), excess = norm_u / (root_size * s.d);
        double alpha = (rms_p > s.eps2 ? rms_p : s.eps2) * s.rho;
        return -alpha / (excess > 1 ? excess : 1);
    }

    template <class X> __device__ static X mean_square(X sum, X n) {
        X norm = sqrt(sum);
        return div(square(norm), n);
    }

    template <class T> __device__ static T bound(const Record<T>& s, T sum, T n) {
        T mean = div(sum, n);
        return maximum(mean, s.eps1);
    }

    template <class T, class X>
    __device__ static X variance(const Record<T>& s, X g, X row_var, X col_var, X bound, X average) {
        return s.factored ? div(mul(row_var, col_var), bound) : lerp(average, square(g), s.omb);
    }

    template <class X, class C> __device__ static X direction(X g, X var, C floor) {
        return mul(rsqrt(maximum(var, floor)), g);
    }

    template <class T, class X>
    __device__ static void update(const Record<T>& s, X& p, X g, X& row_var, X& col_var, X& variance, X bound) {
        X var = Adafactor::variance(s, g, row_var, col_var, bound, variance);
        X u = direction(g, var, s.floor);
        if (s.weight_decay)
            p = mul(p, s.shrink);
        p = axpy(p, u, s.step_size);
        variance = var;
    }
};

namespace adafactor {

template <class T> using Record = Adafactor::Record<T>;

struct SquareOfGradient {
    const float* grad_scale;

    template <class X> __device__ X operator()(X g) const { return square(grad_scale ? div(g, *grad_scale) : g); }
};

// Averages that a step renews; the tables of their bucket hold for each the number of its elements, of what each element
// sums up, where the sums are, and where it is stored. The new averages replace the sums, unrounded.
template <class P, class T = Arithmetic<P>> __device__ inline void average(const Record<T>& s, const Bucket& b) {
    if (b.found_inf && *b.found_inf)
        return;
    for (i64 c = blockIdx.x; c < b.chunks; c += gridDim.x) {
        const Part part(b, c);
        const i64* table = b.tables + part.tensor;
        T n = table[b.tensors], *sums = (T*)table[2 * b.tensors];
        P* stored = (P*)table[3 * b.tensors];
        for (i64 i = part.start + threadIdx.x; i < part.start + part.size; i += blockDim.x) {
            sums[i] = lerp(widen(stored[i]), Adafactor::mean_square(sums[i], n), s.omb);
            round_to(stored[i], sums[i]);
        }
    }
}

// V elements of what a step reads, as they are stored, and what becomes of some of them.
template <class P, class G, int V> struct Stored {
    Vector<G, V> g;
    Vector<Arithmetic<P>, V> row_var, col_var, bound;
    Vector<P, V> variance;
};

template <class X> struct Operands {
    X g, row_var, col_var, bound, variance;

    template <class O> __device__ Operands(const O& from, int v) {
        read(g, from.g, v);
        read(row_var, from.row_var, v);
        read(col_var, from.col_var, v);
        read(bound, from.bound, v);
        read(variance, from.variance, v);
    }
};

// A parameter. The tables of its bucket hold these fields for each.
template <class P, class G, class T = Arithmetic<P>> struct Tensor {
    i64 size, rows, columns;
    P* p;
    const G* g;
    G* copy;
    P* variance;
    const T *row_var, *col_var, *sums;

    __device__ Tensor(const Bucket& b, i64 number) {
        const i64 *table = b.tables + number, n = b.tensors;
        size = table[0], rows = table[n], columns = table[2 * n];
        p = (P*)table[3 * n], g = (const G*)table[4 * n], copy = (G*)table[5 * n], variance = (P*)table[6 * n];
        row_var = (const T*)table[7 * n], col_var = (const T*)table[8 * n], sums = (const T*)table[9 * n];
    }

    __device__ bool aligned(i64 i) const {
        i64 bits = (i64)(p + i) | (i64)(g + i) | (copy ? (i64)(copy + i) : 0) | (variance ? (i64)(variance + i) : 0);
        return bits % alignof(Vector<G, AT_ONCE<T, G>>) == 0;
    }

    // Reads V elements from place i on.
    template <int V> __device__ Stored<P, G, V> load(const Record<T>& s, i64 i) const {
        Stored<P, G, V> out{};
        out.g = *(const Vector<G, V>*)(g + i);
        if (row_var)
            factors(s, i, out);
        else
            out.variance = *(const Vector<P, V>*)(variance + i);
        return out;
    }

    template <int V> __device__ void factors(const Record<T>& s, i64 i, Stored<P, G, V>& out) const {
        i64 row = i / columns, column = i % columns, batch = row / rows;
        const T* of_columns = col_var + batch * columns;
        T bound = Adafactor::bound(s, sums[batch], T(rows));
        if (column + V > columns)
            return factors_of_rows(s, row, column, out);
        for (int v = 0; v < V; v++) {
            out.row_var.x[v] = row_var[row];
            out.col_var.x[v] = of_columns[column + v];
            out.bound.x[v] = bound;
        }
    }

    // The same for elements of several rows.
    template <int V>
    __device__ void factors_of_rows(const Record<T>& s, i64 row, i64 column, Stored<P, G, V>& out) const {
        i64 batch = row / rows, in_batch = row % rows;
        for (int v = 0; v < V; v++, column++) {
            if (column == columns) {
                column = 0, row++;
                batch += ++in_batch == rows;
                in_batch = in_batch == rows ? 0 : in_batch;
            }
            out.row_var.x[v] = row_var[row];
            out.col_var.x[v] = col_var[batch * columns + column];
            out.bound.x[v] = Adafactor::bound(s, sums[batch], T(rows));
        }
    }
};

// The squares of the directions in which the elements of a parameter move.
template <class P, class G> struct Squares {
    using T = Arithmetic<P>;
    static constexpr int V = AT_ONCE<T, G>;
    const Record<T>& s;
    const Preparation<T>& prepare;
    Tensor<P, G> tensor;

    __device__ bool together(i64 i) const { return tensor.aligned(i); }

    template <int V, int W, class X> __device__ void values(i64 i, X* to) const {
        const auto from = tensor.template load<V>(s, i);
        for (int v = 0; v < V; v += W) {
            Operands<X> x(from, v);
            x.g = prepare(x.g);
            X var = Adafactor::variance(s, x.g, x.row_var, x.col_var, x.bound, x.variance);
            to[v / W] = square(Adafactor::direction(x.g, var, s.floor));
        }
    }
};

template <class P, class G, class T = Arithmetic<P>>
__device__ inline void sum_squares(Record<T> s, const Bucket& b, const Sums& all) {
    const Preparation<T> prepare(b);
    for (i64 i = blockIdx.x; i < all.tiles; i += gridDim.x) {
        Tensor<P, G> tensor(b, all.number(i));
        s.factored = tensor.row_var != nullptr;
        sum_tile(Squares<P, G>{s, prepare, tensor}, all.sum<T>(all.number(i)), all.tile(i));
    }
}

template <class T>
__device__ inline void
find_step_sizes(const Record<double>& s, i64 n, const double* root_sizes, const T* p, const T* u, T* step_sizes) {
    for (i64 i = i64(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += i64(gridDim.x) * blockDim.x)
        step_sizes[i] = Adafactor::step_size(s, root_sizes[i], p[i], u[i]);
}

// Updates V elements from place i on.
template <int V, int W, class P, class G, class T>
__device__ inline void update(const Record<T>& s, const Preparation<T>& prepare, const Tensor<P, G>& tensor, i64 i) {
    auto from = tensor.template load<V>(s, i);
    Vector<P, V> p = *(const Vector<P, V>*)(tensor.p + i);
    Vector<G, V> copy;
    for (int v = 0; v < V; v += W) {
        typename Number<T, W>::Type parameter;
        read(parameter, p, v);
        Operands<decltype(parameter)> x(from, v);
        Adafactor::update(s, parameter, prepare(x.g), x.row_var, x.col_var, x.variance, x.bound);
        write(p, v, parameter);
        write(from.variance, v, x.variance);
        if constexpr (sizeof(P) != sizeof(G))
            write(copy, v, parameter);
    }
    *(Vector<P, V>*)(tensor.p + i) = p;
    if (tensor.variance)
        *(Vector<P, V>*)(tensor.variance + i) = from.variance;
    if constexpr (sizeof(P) != sizeof(G))
        *(Vector<G, V>*)(tensor.copy + i) = copy;
}

template <class P, class G, class T = Arithmetic<P>>
__device__ inline void update_all(Record<T> s, const Bucket& b, const T* step_sizes) {
    if (b.found_inf && *b.found_inf)
        return;
    constexpr int V = AT_ONCE<T, G>, W = SIDE_BY_SIDE<T>;
    const Preparation<T> prepare(b);
    for (i64 c = blockIdx.x; c < b.chunks; c += gridDim.x) {
        const Part part(b, c);
        const Tensor<P, G> tensor(b, part.tensor);
        s.factored = tensor.row_var != nullptr;
        s.step_size = step_sizes[part.tensor];
        i64 vectors = tensor.aligned(part.start) ? part.size / V : 0;
        for (i64 i = threadIdx.x; i < vectors; i += blockDim.x)
            update<V, W>(s, prepare, tensor, part.start + i * V);
        for (i64 i = vectors * V + threadIdx.x; i < part.size; i += blockDim.x)
            update<1, 1>(s, prepare, tensor, part.start + i);
    }
}

}  // namespace adafactor

#define OF_GRADIENTS(NAME, G)                                               \
    KERNEL(adafactor_gradients_##NAME)(const float* grad_scale, Sums all) { \
        sum_all<G, 1>(all, adafactor::SquareOfGradient{grad_scale});        \
    }                                                                       \
    EXPORT(adafactor_gradients_##NAME)

#define OF_STORAGE(NAME, P)                                                                                          \
    OF_GRADIENTS(NAME, P)                                                                                            \
    KERNEL(adafactor_averages_##NAME)(Adafactor::Record<Arithmetic<P>> s, Bucket b) { adafactor::average<P>(s, b); } \
    EXPORT(adafactor_averages_##NAME)

#define OF_NUMBER(NAME, T)                                                                                  \
    KERNEL(adafactor_step_sizes_##NAME)                                                                     \
    (Adafactor::Record<double> s, i64 n, const double* root_sizes, const T* p, const T* u, T* step_sizes) { \
        adafactor::find_step_sizes(s, n, root_sizes, p, u, step_sizes);                                     \
    }                                                                                                       \
    EXPORT(adafactor_step_sizes_##NAME)

#define OF_TENSORS(NAME, P, G)                                                                                \
    KERNEL(adafactor_directions_##NAME)(Adafactor::Record<Arithmetic<P>> s, Bucket b, Sums all) {             \
        adafactor::sum_squares<P, G>(s, b, all);                                                              \
    }                                                                                                         \
    EXPORT(adafactor_directions_##NAME)                                                                       \
    KERNEL(adafactor_##NAME)(Adafactor::Record<Arithmetic<P>> s, Bucket b, const Arithmetic<P>* step_sizes) { \
        adafactor::update_all<P, G>(s, b, step_sizes);                                                        \
    }                                                                                                         \
    EXPORT(adafactor_##NAME)

OF_STORAGE(float64, double)
OF_STORAGE(float32, float)
OF_STORAGE(float16, float16)
OF_STORAGE(bfloat16, bfloat16)
OF_NUMBER(float64, double)
OF_NUMBER(float32, float)
OF_TENSORS(float64, double, double)
OF_TENSORS(float32, float, float)
OF_TENSORS(float16, float16, float16)
OF_TENSORS(bfloat16, bfloat16, bfloat16)
OF_TENSORS(float16_master, float, float16)
OF_TENSORS(bfloat16_master, float, bfloat16)

#undef OF_GRADIENTS
#undef OF_STORAGE
#undef OF_NUMBER
#undef OF_TENSORS

}  // namespace refoptim
