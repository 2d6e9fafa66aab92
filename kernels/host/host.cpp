// The kernels of one file, SOURCE, for one instruction set, VARIANT: compiled once for each pair. KERNELS is its name.
#include <float.h>

#if FLT_EVAL_METHOD != 0
#error "floats must be computed as floats and doubles as doubles"
#endif

// However such a flag came here: a wrapper of the compiler or its file of settings may hold one.
#if defined(__FAST_MATH__) || __FINITE_MATH_ONLY__ || defined(__ASSOCIATIVE_MATH__) || defined(__RECIPROCAL_MATH__) || \
    defined(__NO_SIGNED_ZEROS__)
#error "the compiler is set to change results (-ffast-math or a part of it)"
#endif

#include "cuda.h"

// What a file defines is its own, even where another file gives something else the same name.
#define refoptim JOIN(refoptim, JOIN(VARIANT, KERNELS))
#include "packed_storage.h"

#define TEXT_OF(X) #X
#define TEXT(X) TEXT_OF(X)
#include TEXT(SOURCE)
