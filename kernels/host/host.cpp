// The kernels for one instruction set, VARIANT: compiled once for each.
#include "cuda.h"

#define refoptim JOIN(refoptim, VARIANT)
#include "packed_storage.h"

#include "../adam.cu"
