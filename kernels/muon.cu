// Muon: the twin of refoptim/optimizers/muon.py. kernels/muon.py launches these kernels one after another.
//
// The matrices of the iteration have no more rows than columns, and N, float or double, is their arithmetic type; an
// iteration in bfloat16 rounds each of them to that and holds it in float. Products are our own: an entry adds its
// products in the order of the inner index, one rounding at a time, as tree.matmul does. CuPy's matmul promises no order
// of summation: its bits depend on the library, the device and the shape. Where a product is symmetric to the bit, half
// of it is computed and mirrored.
#include "harness/multi_tensor.cuh"
#include "harness/tree.cuh"
#include "harness/vector.cuh"

namespace refoptim {

struct Muon {
    template <class T> struct Record {
        T one_minus_momentum, momentum, nesterov, shrink, step_size;
    };

    template <class T, class X> __device__ static X measure(const Record<T>& s, X g, X momentum_buffer) {
        X buf = lerp(momentum_buffer, g, s.one_minus_momentum);
        return s.nesterov ? lerp(g, buf, s.momentum) : buf;
    }

    template <class T, class X>
    __device__ static void update(const Record<T>& s, X& p, X g, X& momentum_buffer, X orthogonal) {
        momentum_buffer = lerp(momentum_buffer, g, s.one_minus_momentum);
        p = axpy(mul(p, s.shrink), orthogonal, s.step_size);
    }
};

namespace newton_schulz {

// How a step runs: element i of a parameter of this shape stands at `place(i)` of the matrix of the iteration, which is
// its transpose if `turned`. The rest is as in Bucket.
struct Matrix {
    i64 rows, columns, turned, bfloat16, maximize;
    const float* grad_scale;
    const float* found_inf;

    __device__ i64 size() const { return found_inf && *found_inf ? 0 : rows * columns; }
    __device__ i64 place(i64 i) const { return turned ? i % columns * rows + i / columns : i; }
};

__device__ inline double rounded(double x, i64) { return x; }
__device__ inline float rounded(float x, i64 to_16_bits) { return to_16_bits ? from_bfloat16(to_bfloat16(x)) : x; }

template <class P, class G, class N, class T>
__device__ inline void look_ahead(const Muon::Record<T>& s, const Matrix& m, const G* g, const P* momentum, N* x) {
    const Preparation<T> prepare(m);
    for_each_element(m.size(), [&](i64 i) {
        T u = Muon::measure(s, prepare(widen(g[i])), widen(momentum[i]));
        x[m.place(i)] = rounded(N(u), m.bfloat16);
    });
}

template <class P, class G, class N, class T>
__device__ inline void
move(const Muon::Record<T>& s, const Matrix& m, P* p, const G* g, P* momentum, const N* x, G* copy) {
    const Preparation<T> prepare(m);
    for_each_element(m.size(), [&](i64 i) {
        T parameter = widen(p[i]), buffer = widen(momentum[i]);
        Muon::update(s, parameter, prepare(widen(g[i])), buffer, T(x[m.place(i)]));
        round_to(p[i], parameter);
        round_to(momentum[i], buffer);
        if constexpr (sizeof(P) != sizeof(G))
            if (copy)
                round_to(copy[i], parameter);
    });
}

// Divides x by its norm, of which `square` holds the square.
template <class N> __device__ inline void normalize(N* x, i64 n, const N* square, N eps, i64 to_16_bits) {
    N norm = rounded(maximum(sqrt(*square), eps), to_16_bits);
    for_each_element(n, [&](i64 i) { x[i] = rounded(div(x[i], norm), to_16_bits); });
}

// A block computes tiles of a product; its threads share out the rows of a tile in groups of ROWS and its columns in
// groups of COLUMNS packs, which together are a patch. A host has one thread to a block, which holds all patches.
constexpr int TILE = 64, ROWS = 4;
#ifdef HOST
constexpr int DEPTH = 64, COLUMNS = REGISTER == 64 ? 4 : 2, PADDING = 0;
#else
constexpr int DEPTH = 16, COLUMNS = 4, PADDING = 1;
#endif

template <class N> struct Patch {
    static constexpr int W = SIDE_BY_SIDE<N>, GROUPS = TILE / (COLUMNS * W), COUNT = TILE / ROWS * GROUPS;
#ifdef HOST
    static constexpr int PER_THREAD = COUNT;
#else
    static constexpr int PER_THREAD = 1;
#endif
    using X = typename Number<N, W>::Type;
    X sums[ROWS][COLUMNS];

    __device__ static int row(int patch) { return patch / GROUPS * ROWS; }
    __device__ static int column(int patch, int c) { return (patch % GROUPS + GROUPS * c) * W; }
};

template <class N> struct alignas(64) Tiles {
    N left[TILE][DEPTH + PADDING], right[DEPTH][TILE + PADDING];
};

// Adds the products of `depth` inner indices to the sums of a patch, in order.
template <class N> __device__ inline void add_products(Patch<N>& patch, int number, const Tiles<N>& tiles, int depth) {
    using X = typename Patch<N>::X;
    Patch<N> p = patch;
    for (int k = 0; k < depth; k++) {
        X right[COLUMNS];
        for (int c = 0; c < COLUMNS; c++)
            read(right[c], *(const Vector<N, Patch<N>::W>*)&tiles.right[k][Patch<N>::column(number, c)], 0);
        for (int r = 0; r < ROWS; r++)
            for (int c = 0; c < COLUMNS; c++)
                p.sums[r][c] = add(p.sums[r][c], mul(right[c], tiles.left[Patch<N>::row(number) + r][k]));
    }
    patch = p;
}

// Fills LINES lines of WIDTH numbers from those there are in a matrix, and with zeros; each thread takes STRETCH numbers
// of a line. In the tile, lines are LINE_STEP apart and the numbers of a line STEP.
template <int LINES, int WIDTH, int LINE_STEP, int STEP, class N>
__device__ inline void load_tile(N* tile, const N* from, i64 line_length, i64 lines, i64 width) {
#ifdef HOST
    constexpr int STRETCH = WIDTH;
#else
    constexpr int STRETCH = 1;
#endif
    for (int part = threadIdx.x; part < LINES * WIDTH / STRETCH; part += blockDim.x) {
        int line = part / (WIDTH / STRETCH), begin = part % (WIDTH / STRETCH) * STRETCH;
        i64 rest = line < lines ? width - begin : 0, filled = rest < 0 ? 0 : rest < STRETCH ? rest : STRETCH;
        N* to = tile + line * LINE_STEP + begin * STEP;
        for (int i = 0; i < filled; i++)
            to[i * STEP] = from[line * line_length + begin + i];
        for (int i = filled; i < STRETCH; i++)
            to[i * STEP] = 0;
    }
}

// The product of two matrices, the right one transposed if `transposed`; the sizes are those of the product, and `depth`
// is that of the inner index. An entry is c times the product, plus b times the addend where there is one. Of a
// `symmetric` product the tiles below the diagonal are those above it, mirrored.
template <class N> struct Product {
    i64 rows, columns, depth, transposed, symmetric, bfloat16;
    const N *left, *right, *addend;
    N* out;
    N b, c;

    __device__ void load(Tiles<N>& tiles, i64 row, i64 column, i64 k) const {
        constexpr int ACROSS = TILE + PADDING, ALONG = DEPTH + PADDING;
        i64 deep = depth - k;
        load_tile<TILE, DEPTH, ALONG, 1>(tiles.left[0], left + row * depth + k, depth, rows - row, deep);
        i64 wide = columns - column;
        if (transposed)
            load_tile<TILE, DEPTH, 1, ACROSS>(tiles.right[0], right + column * depth + k, depth, wide, deep);
        else
            load_tile<DEPTH, TILE, ACROSS, 1>(tiles.right[0], right + k * columns + column, columns, deep, wide);
    }

    // Writes some entries of row i, from column j on. The loop ends early, rather than pass over entries: of that, GCC 12
    // makes AVX-512 stores that touch memory past the end.
    __device__ void store(i64 i, i64 j, const N* products, i64 count, bool mirrored) const {
        for (i64 w = 0; w < count; w++) {
            i64 at = i * columns + j + w;
            N entry = rounded(addend ? add(mul(addend[at], b), mul(products[w], c)) : products[w], bfloat16);
            out[at] = entry;
            if (mirrored)
                out[(j + w) * columns + i] = entry;
        }
    }

    __device__ void store(const Patch<N>& patch, int number, i64 row, i64 column) const {
        constexpr int W = Patch<N>::W;
        bool mirrored = symmetric && row != column;
        row += Patch<N>::row(number);
        i64 count = rows - row < ROWS ? rows - row : ROWS;
        for (int r = 0; r < count; r++)
            for (int c = 0; c < COLUMNS; c++) {
                Vector<N, W> sums;
                write(sums, 0, patch.sums[r][c]);
                i64 j = column + Patch<N>::column(number, c), rest = columns - j;
                store(row + r, j, sums.x, rest < W ? rest : W, mirrored);
            }
    }

    // Patches beyond the edge have nothing to do.
    __device__ bool has(int patch, i64 row, i64 column) const {
        i64 i = row + Patch<N>::row(patch), j = column + Patch<N>::column(patch, 0);
        return patch < Patch<N>::COUNT && i < rows && j < columns;
    }

    __device__ void compute_tile(Tiles<N>& tiles, i64 row, i64 column) const {
        constexpr int MINE = Patch<N>::PER_THREAD;
        for (int first = threadIdx.x; first - (int)threadIdx.x < Patch<N>::COUNT; first += MINE * blockDim.x) {
            Patch<N> patches[MINE] = {};
            for (i64 k = 0; k < depth; k += DEPTH) {
                __syncthreads();
                load(tiles, row, column, k);
                __syncthreads();
                int deep = depth - k < DEPTH ? depth - k : DEPTH;
                for (int j = 0; j < MINE; j++)
                    if (has(first + j * blockDim.x, row, column))
                        add_products(patches[j], first + j * blockDim.x, tiles, deep);
            }
            for (int j = 0; j < MINE; j++)
                if (has(first + j * blockDim.x, row, column))
                    store(patches[j], first + j * blockDim.x, row, column);
        }
    }

    __device__ void compute(Tiles<N>& tiles) const {
        i64 down = (rows + TILE - 1) / TILE, across = (columns + TILE - 1) / TILE;
        i64 count = symmetric ? across * (across + 1) / 2 : down * across;
        for (i64 tile = blockIdx.x; tile < count; tile += gridDim.x) {
            i64 row = tile / across, column = tile % across;
            if (symmetric)
                for (row = 0, column = tile; column >= across; row++)
                    column -= across - row - 1;
            compute_tile(tiles, row * TILE, column * TILE);
        }
    }
};

}  // namespace newton_schulz

#define STEP_ENTRIES(NAME, P, G, N)                                                                                \
    KERNEL(muon_ahead_##NAME)                                                                                      \
    (Muon::Record<Arithmetic<P>> s, newton_schulz::Matrix m, const G* g, const P* momentum, N* x) {                \
        newton_schulz::look_ahead(s, m, g, momentum, x);                                                           \
    }                                                                                                              \
    EXPORT(muon_ahead_##NAME)                                                                                      \
    KERNEL(muon_##NAME)                                                                                            \
    (Muon::Record<Arithmetic<P>> s, newton_schulz::Matrix m, P* p, const G* g, P* momentum, const N* x, G* copy) { \
        newton_schulz::move(s, m, p, g, momentum, x, copy);                                                        \
    }                                                                                                              \
    EXPORT(muon_##NAME)

#define ITERATION_ENTRIES(NAME, N)                                                       \
    STEP_ENTRIES(float64_##NAME, double, double, N)                                      \
    STEP_ENTRIES(float32_##NAME, float, float, N)                                        \
    STEP_ENTRIES(float16_##NAME, float16, float16, N)                                    \
    STEP_ENTRIES(bfloat16_##NAME, bfloat16, bfloat16, N)                                 \
    STEP_ENTRIES(float16_master_##NAME, float, float16, N)                               \
    STEP_ENTRIES(bfloat16_master_##NAME, float, bfloat16, N)                             \
    KERNEL(muon_normalize_##NAME)(N* x, i64 n, const N* square, N eps, i64 to_16_bits) { \
        newton_schulz::normalize(x, n, square, eps, to_16_bits);                         \
    }                                                                                    \
    EXPORT(muon_normalize_##NAME)                                                        \
    KERNEL(muon_product_##NAME)(newton_schulz::Product<N> product) {                     \
        __shared__ newton_schulz::Tiles<N> tiles;                                        \
        product.compute(tiles);                                                          \
    }                                                                                    \
    EXPORT(muon_product_##NAME)

ITERATION_ENTRIES(float32, float)
ITERATION_ENTRIES(float64, double)

}  // namespace refoptim
