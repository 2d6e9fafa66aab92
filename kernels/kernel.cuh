// What a kernel is: a function that CUDA launches by name, or that host/cuda.h calls block by block.
#pragma once

#ifdef HOST
#include "host/cuda.h"
#else
#define KERNEL(NAME) extern "C" __global__ void __launch_bounds__(THREADS) NAME
#define EXPORT(NAME)
#endif

namespace refoptim {

using i64 = long long;

// Threads of a block at most; no result depends on their number.
constexpr int THREADS = 512;

}  // namespace refoptim
