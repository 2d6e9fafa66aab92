// Muon: the twin of refoptim/optimizers/muon.py. kernels/muon.py launches these kernels one after another.
//
// The matrices of the iteration have no more rows than columns, and N, float or double, is their arithmetic type; an
// iteration in bfloat16 rounds each of them to that and holds it in float.
#include "harness/multi_tensor.cuh"
#include "harness/product.cuh"
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

using products::rounded;

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

#define ITERATION_ENTRIES(NAME, N)                                                        \
    STEP_ENTRIES(float64_##NAME, double, double, N)                                       \
    STEP_ENTRIES(float32_##NAME, float, float, N)                                         \
    STEP_ENTRIES(float16_##NAME, float16, float16, N)                                     \
    STEP_ENTRIES(bfloat16_##NAME, bfloat16, bfloat16, N)                                  \
    STEP_ENTRIES(float16_master_##NAME, float, float16, N)                                \
    STEP_ENTRIES(bfloat16_master_##NAME, float, bfloat16, N)                              \
    KERNEL(muon_normalize_##NAME)(N* x, i64 n, const N* square, N eps, i64 to_16_bits) {  \
        newton_schulz::normalize(x, n, square, eps, to_16_bits);                          \
    }                                                                                     \
    EXPORT(muon_normalize_##NAME)                                                         \
    KERNEL(muon_product_##NAME, products::AT_ONCE_OF_TILE<N>, products::THREADS_OF_TILE)( \
        products::Product<N> product                                                      \
    ) {                                                                                   \
        __shared__ products::Tiles<N> tiles[products::TURNS];                             \
        product.compute(tiles);                                                           \
    }                                                                                     \
    EXPORT(muon_product_##NAME)

ITERATION_ENTRIES(float32, float)
ITERATION_ENTRIES(float64, double)

}  // namespace refoptim
