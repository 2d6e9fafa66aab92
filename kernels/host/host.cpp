// The kernels of one file, SOURCE, for one instruction set, VARIANT: compiled once for each pair. KERNELS is its name.
#include "cuda.h"

// What a file defines is its own, even where another file gives something else the same name.
#define refoptim JOIN(refoptim, JOIN(VARIANT, KERNELS))
#include "packed_storage.h"

#define TEXT_OF(X) #X
#define TEXT(X) TEXT_OF(X)
#include TEXT(SOURCE)
