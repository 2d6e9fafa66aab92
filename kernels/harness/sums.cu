// Sums in the order of the tree: of values, of squares and of products, many arrays in a launch.
#include "tree.cuh"

namespace refoptim {

#define SUMS(NAME, STORAGE, FUNCTION, N, S)                                \
    KERNEL(NAME##_##STORAGE)(Sums all) { sum_all<S, N>(all, FUNCTION()); } \
    EXPORT(NAME##_##STORAGE)

#define SUMS_OF(NAME, FUNCTION, N)            \
    SUMS(NAME, float64, FUNCTION, N, double)  \
    SUMS(NAME, float32, FUNCTION, N, float)   \
    SUMS(NAME, float16, FUNCTION, N, float16) \
    SUMS(NAME, bfloat16, FUNCTION, N, bfloat16)

SUMS_OF(sums, Itself, 1)
SUMS_OF(sums_of_squares, Square, 1)
SUMS_OF(sums_of_products, Product, 2)

}  // namespace refoptim
