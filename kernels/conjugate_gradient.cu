// Conjugate gradients: the twin of refoptim/optimizers/conjugate_gradient.py.
#include "harness/vector.cuh"

namespace refoptim {

namespace conjugate_gradient {

// A product with the change of the gradient.
struct Change {
    template <class X> __device__ X operator()(X x, X g, X prev_g) const { return mul(x, sub(g, prev_g)); }
};

template <class T> struct Descend {
    T coefficient;

    template <class X> __device__ X operator()(X& d, X g, X prev_d) const {
        d = axpy(neg(g), prev_d, coefficient);
        return mul(g, d);
    }
};

}  // namespace conjugate_gradient

#define CONJUGATE_GRADIENT(T, NAME)                                                                     \
    KERNEL(conjugate_gradient_change_##NAME)(i64 n, T* sums, const T* x, const T* g, const T* prev_g) { \
        walk<0, 0>(conjugate_gradient::Change(), n, sums, x, g, prev_g);                                \
    }                                                                                                   \
    EXPORT(conjugate_gradient_change_##NAME)                                                            \
    KERNEL(conjugate_gradient_descend_##NAME)                                                           \
    (i64 n, T* sums, T* d, const T* g, const T* prev_d, T coefficient) {                                \
        walk<1, 1>(conjugate_gradient::Descend<T>{coefficient}, n, sums, d, g, prev_d);                 \
    }                                                                                                   \
    EXPORT(conjugate_gradient_descend_##NAME)

CONJUGATE_GRADIENT(double, float64)
CONJUGATE_GRADIENT(float, float32)

}  // namespace refoptim
