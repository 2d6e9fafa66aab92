// L-BFGS: the twin of refoptim/optimizers/lbfgs.py. Each kernel moves a vector and sums, run by run, the next product.
//
// The coefficients of the two loops stay in device memory: a kernel makes its own from the product that the last one left.
#include "harness/vector.cuh"

namespace refoptim {

namespace lbfgs {

template <class T> struct Change {
    T t;

    template <class X> __device__ X operator()(X& y, X& step, X g, X prev_g, X d) const {
        y = sub(g, prev_g);
        step = mul(d, t);
        return mul(y, step);
    }
};

struct Begin {
    template <class X> __device__ X operator()(X& q, X g, X step) const {
        q = neg(g);
        return mul(step, q);
    }
};

template <class T> struct Back {
    T al;

    template <class X> __device__ X operator()(X& q, X y, X step) const {
        q = axpy(q, y, neg(al));
        return mul(step, q);
    }
};

template <class T> struct Turn {
    T al, H_diag;

    template <class X> __device__ X operator()(X& d, X y, X first) const {
        d = mul(axpy(d, y, neg(al)), H_diag);
        return mul(first, d);
    }
};

template <class T> struct Forth {
    T share;

    template <class X> __device__ X operator()(X& d, X step, X y) const {
        d = axpy(d, step, share);
        return mul(y, d);
    }
};

template <class T> struct Alone {
    T H_diag;

    template <class X> __device__ X operator()(X& d, X g) const {
        d = mul(neg(g), H_diag);
        return mul(g, d);
    }
};

// Makes a coefficient of the first loop and keeps it.
template <class T> __device__ inline T keep(T* al, T product, T r) {
    T coefficient = mul(product, r);
    if (blockIdx.x == 0 && threadIdx.x == 0)
        *al = coefficient;
    return coefficient;
}

}  // namespace lbfgs

#define LBFGS(T, NAME)                                                                                         \
    KERNEL(lbfgs_change_##NAME)(i64 n, T* sums, T* y, T* step, const T* g, const T* prev_g, const T* d, T t) { \
        walk<2, 2>(lbfgs::Change<T>{t}, n, sums, y, step, g, prev_g, d);                                       \
    }                                                                                                          \
    EXPORT(lbfgs_change_##NAME)                                                                                \
    KERNEL(lbfgs_begin_##NAME)(i64 n, T* sums, T* q, const T* g, const T* step) {                              \
        walk<1, 1>(lbfgs::Begin(), n, sums, q, g, step);                                                       \
    }                                                                                                          \
    EXPORT(lbfgs_begin_##NAME)                                                                                 \
    KERNEL(lbfgs_back_##NAME)                                                                                  \
    (i64 n, T* sums, T* q, const T* y, const T* step, T* al, const T* product, T r) {                          \
        walk<1, 0>(lbfgs::Back<T>{lbfgs::keep(al, *product, r)}, n, sums, q, y, step);                         \
    }                                                                                                          \
    EXPORT(lbfgs_back_##NAME)                                                                                  \
    KERNEL(lbfgs_turn_##NAME)                                                                                  \
    (i64 n, T* sums, T* d, const T* y, const T* first, T* al, const T* product, T r, T H_diag) {               \
        walk<1, 0>(lbfgs::Turn<T>{lbfgs::keep(al, *product, r), H_diag}, n, sums, d, y, first);                \
    }                                                                                                          \
    EXPORT(lbfgs_turn_##NAME)                                                                                  \
    KERNEL(lbfgs_forth_##NAME)                                                                                 \
    (i64 n, T* sums, T* d, const T* step, const T* y, const T* al, const T* product, T r) {                    \
        walk<1, 0>(lbfgs::Forth<T>{sub(*al, mul(*product, r))}, n, sums, d, step, y);                          \
    }                                                                                                          \
    EXPORT(lbfgs_forth_##NAME)                                                                                 \
    KERNEL(lbfgs_alone_##NAME)(i64 n, T* sums, T* d, const T* g, T H_diag) {                                   \
        walk<1, 1>(lbfgs::Alone<T>{H_diag}, n, sums, d, g);                                                    \
    }                                                                                                          \
    EXPORT(lbfgs_alone_##NAME)

LBFGS(double, float64)
LBFGS(float, float32)

}  // namespace refoptim
