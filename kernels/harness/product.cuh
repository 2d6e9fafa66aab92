// Products of matrices, bit by bit as tree.matmul has them: an entry adds its products in the order of the inner index,
// one rounding at a time. CuPy's matmul promises no order of summation: its bits depend on the library, the device and
// the shape. Where a product is symmetric to the bit, half of it is computed and mirrored.
//
// A block computes tiles of a product; its threads share out the rows of a tile in groups of ROWS and its columns in
// groups of COLUMNS packs, which together are a patch. A host has one thread to a block, which holds all patches.
#pragma once

#include "arith.cuh"
#include "kernel.cuh"
#include "multi_tensor.cuh"

// Registers cannot be numbered at run time: what lies in them is gone through by loops that are written out.
#ifdef __CUDACC__
#define UNROLL _Pragma("unroll")
#else
#define UNROLL
#endif

namespace refoptim::products {

__device__ inline double rounded(double x, i64) { return x; }
__device__ inline float rounded(float x, i64 to_16_bits) { return to_16_bits ? through_bfloat16(x) : x; }

constexpr int TILE = 64;
#ifdef HOST
constexpr int DEPTH = 64, ROWS = 4, COLUMNS = REGISTER == 64 ? 4 : 2;
template <class N> constexpr int TOGETHER = 1;
constexpr int TURNS = 1;
#else
constexpr int DEPTH = 8, ROWS = 8, COLUMNS = 8, TURNS = 2;
template <class N> constexpr int TOGETHER = 16 / sizeof(N);
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

    // Columns of a patch that are read at once stand together; the next ones are those of the other patches.
    __device__ static int row(int patch) { return patch / GROUPS * ROWS; }
    __device__ static int column(int patch, int c) {
        return (patch % GROUPS + GROUPS * (c / TOGETHER<N>)) * TOGETHER<N> * W + c % TOGETHER<N>;
    }
};

// Threads of a block on a device, one for each patch, and how many blocks a multiprocessor is to hold.
constexpr int THREADS_OF_TILE = TILE / ROWS * (TILE / COLUMNS);
template <class N> constexpr int AT_ONCE_OF_TILE = sizeof(N) == 4 ? 6 : 4;

#ifdef HOST

template <class N> struct alignas(64) Tiles {
    N left[TILE][DEPTH], right[DEPTH][TILE];
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

// Fills LINES lines of WIDTH numbers from those there are in a matrix, and with zeros. In the tile, lines are LINE_STEP
// apart and the numbers of a line STEP.
template <int LINES, int WIDTH, int LINE_STEP, int STEP, class N>
__device__ inline void load_tile(N* tile, const N* from, i64 line_length, i64 lines, i64 width) {
    for (int line = 0; line < LINES; line++) {
        i64 rest = line < lines ? width : 0, filled = rest < 0 ? 0 : rest < WIDTH ? rest : WIDTH;
        N* to = tile + line * LINE_STEP;
        for (int i = 0; i < filled; i++)
            to[i * STEP] = from[line * line_length + i];
        for (int i = filled; i < WIDTH; i++)
            to[i * STEP] = 0;
    }
}

#else

// Lines of a tile are those of an inner index. They are so far apart that 16 bytes stay together, and that writing a
// column disturbs few.
template <class N> struct alignas(16) Tiles {
    static constexpr int LINE = TILE + TOGETHER<N>;
    N left[DEPTH][LINE], right[DEPTH][LINE];
};

// Adds the products of inner index k to the sums of a patch.
template <class N> __device__ inline void add_line(Patch<N>& patch, int number, const Tiles<N>& tiles, int k) {
    constexpr int V = TOGETHER<N>;
    Vector<N, V> left[ROWS / V], right[COLUMNS / V];
    for (int r = 0; r < ROWS; r += V)
        left[r / V] = *(const Vector<N, V>*)&tiles.left[k][Patch<N>::row(number) + r];
    for (int c = 0; c < COLUMNS; c += V)
        right[c / V] = *(const Vector<N, V>*)&tiles.right[k][Patch<N>::column(number, c)];
    for (int r = 0; r < ROWS; r++)
        for (int c = 0; c < COLUMNS; c++)
            patch.sums[r][c] = add(patch.sums[r][c], mul(right[c / V].x[c % V], left[r / V].x[r % V]));
}

// Adds the products of `depth` inner indices to the sums of a patch, in order.
template <class N> __device__ inline void add_products(Patch<N>& patch, int number, const Tiles<N>& tiles, i64 depth) {
    if (depth >= DEPTH) {
        UNROLL for (int k = 0; k < DEPTH; k++) add_line(patch, number, tiles, k);
    } else {
        for (int k = 0; k < depth; k++)
            add_line(patch, number, tiles, k);
    }
}

// One of the two matrices from the first line of a tile on: how many places of the product it has there, and whether the
// inner index runs along its lines. A thread reads some vectors of the next tile while this one is multiplied.
template <class N> struct Side {
    static constexpr int V = TOGETHER<N>, PARTS = TILE * DEPTH / V, HELD = PARTS / THREADS_OF_TILE;
    static constexpr int LINE = Tiles<N>::LINE;
    const N* from;
    i64 length, places, depth;
    bool along, whole;
    Vector<N, V> held[HELD];

    // A `whole` side has all places of the tile, vectors where they can be read at once, and HELD of them for each thread.
    __device__ Side(const N* from, i64 length, i64 places, i64 depth, bool along)
        : from(from), length(length), places(places), depth(depth), along(along),
          whole(places >= TILE && (i64)from % 16 == 0 && length % V == 0 && blockDim.x == THREADS_OF_TILE) {}

    __device__ int line(int part) const { return along ? part / (DEPTH / V) : part / (TILE / V); }
    __device__ int begin(int part) const { return (along ? part % (DEPTH / V) : part % (TILE / V)) * V; }
    __device__ const N* at(int part, i64 k) const {
        return from + line(part) * length + begin(part) + (along ? k : k * length);
    }

    // Reads a vector of the tile from inner index k on; zeros stand for what is not there.
    __device__ Vector<N, V> read(int part, i64 k) const {
        i64 lines = along ? places : depth - k, rest = (along ? depth - k : places) - begin(part);
        const N* x = at(part, k);
        Vector<N, V> numbers{};
        for (int v = 0; v < V; v++)
            if (line(part) < lines && v < rest)
                numbers.x[v] = x[v];
        return numbers;
    }

    __device__ void write(N* tile, int part, const Vector<N, V>& numbers) const {
        if (!along)
            *(Vector<N, V>*)(tile + line(part) * LINE + begin(part)) = numbers;
        else
            for (int v = 0; v < V; v++)
                tile[(begin(part) + v) * LINE + line(part)] = numbers.x[v];
    }

    __device__ void fetch(i64 k) {
        if (whole && k + DEPTH <= depth) {
            for (int j = 0; j < HELD; j++)
                held[j] = *(const Vector<N, V>*)at(threadIdx.x + j * THREADS_OF_TILE, k);
        } else {
            for (int j = 0; j < HELD; j++)
                if (int part = threadIdx.x + j * blockDim.x; part < PARTS)
                    held[j] = read(part, k);
        }
    }

    // Writes what was fetched; a block of fewer threads than it is meant for has some parts left to read.
    __device__ void put(N (*tile)[LINE], i64 k) const {
        if (blockDim.x == THREADS_OF_TILE) {
            for (int j = 0; j < HELD; j++)
                write(tile[0], threadIdx.x + j * THREADS_OF_TILE, held[j]);
        } else {
            for (int j = 0; j < HELD; j++)
                if (int part = threadIdx.x + j * blockDim.x; part < PARTS)
                    write(tile[0], part, held[j]);
            for (int part = threadIdx.x + HELD * blockDim.x; part < PARTS; part += blockDim.x)
                write(tile[0], part, read(part, k));
        }
    }
};

#endif

// The product of two matrices, the right one transposed if `transposed`; the sizes are those of the product, and `depth`
// is that of the inner index. An entry is c times the product, plus b times the addend where there is one. Of a
// `symmetric` product the tiles below the diagonal are those above it, mirrored.
template <class N> struct Product {
    i64 rows, columns, depth, transposed, symmetric, bfloat16;
    const N *left, *right, *addend;
    N* out;
    N b, c;

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
        UNROLL for (int r = 0; r < ROWS && r < count; r++) {
            UNROLL for (int c = 0; c < COLUMNS; c++) {
                Vector<N, W> sums;
                write(sums, 0, patch.sums[r][c]);
                i64 j = column + Patch<N>::column(number, c), rest = columns - j;
                store(row + r, j, sums.x, rest < W ? rest : W, mirrored);
            }
        }
    }

    // Patches beyond the edge have nothing to do.
    __device__ bool has(int patch, i64 row, i64 column) const {
        i64 i = row + Patch<N>::row(patch), j = column + Patch<N>::column(patch, 0);
        return patch < Patch<N>::COUNT && i < rows && j < columns;
    }

#ifdef HOST
    __device__ void load(Tiles<N>& tiles, i64 row, i64 column, i64 k) const {
        i64 deep = depth - k, wide = columns - column;
        load_tile<TILE, DEPTH, DEPTH, 1>(tiles.left[0], left + row * depth + k, depth, rows - row, deep);
        if (transposed)
            load_tile<TILE, DEPTH, 1, TILE>(tiles.right[0], right + column * depth + k, depth, wide, deep);
        else
            load_tile<DEPTH, TILE, TILE, 1>(tiles.right[0], right + k * columns + column, columns, deep, wide);
    }

    __device__ void compute_tile(Tiles<N>* tiles, i64 row, i64 column) const {
        constexpr int MINE = Patch<N>::PER_THREAD;
        Patch<N> patches[MINE] = {};
        for (i64 k = 0; k < depth; k += DEPTH) {
            load(tiles[0], row, column, k);
            int deep = depth - k < DEPTH ? depth - k : DEPTH;
            for (int j = 0; j < MINE; j++)
                if (has(j, row, column))
                    add_products(patches[j], j, tiles[0], deep);
        }
        for (int j = 0; j < MINE; j++)
            if (has(j, row, column))
                store(patches[j], j, row, column);
    }
#else
    // Two tiles take turns: while one is multiplied, the next is read.
    __device__ void compute_tile(Tiles<N>* tiles, i64 row, i64 column) const {
        Side<N> above(left + row * depth, depth, rows - row, depth, true);
        Side<N> beside(
            right + (transposed ? column * depth : column), transposed ? depth : columns, columns - column, depth,
            transposed
        );
        for (int patch = threadIdx.x; patch - (int)threadIdx.x < Patch<N>::COUNT; patch += blockDim.x) {
            Patch<N> sums = {};
            above.fetch(0);
            beside.fetch(0);
            __syncthreads();
            for (i64 k = 0; k < depth; k += DEPTH) {
                Tiles<N>& now = tiles[k / DEPTH % 2];
                above.put(now.left, k);
                beside.put(now.right, k);
                __syncthreads();
                above.fetch(k + DEPTH);
                beside.fetch(k + DEPTH);
                if (has(patch, row, column))
                    add_products(sums, patch, now, depth - k);
            }
            if (has(patch, row, column))
                store(sums, patch, row, column);
        }
    }
#endif

    __device__ void compute(Tiles<N>* tiles) const {
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

}  // namespace refoptim::products

#undef UNROLL
