// What a kernel is: a function that CUDA launches by name, or that host/cuda.h calls block by block. A number beside the
// name says how many blocks a multiprocessor must be able to hold at once, which limits the registers of a thread.
#pragma once

#ifdef HOST
#include "../host/cuda.h"
#elif !defined(KERNEL)
#define KERNEL(NAME, ...) extern "C" __global__ void __launch_bounds__(THREADS, blocks(__VA_ARGS__)) NAME
#define EXPORT(NAME)
#endif

// A host asks for the memory that a loop will read soon; a device has threads enough to wait.
#ifndef FETCH_AHEAD
#define FETCH_AHEAD(ADDRESS)
#endif

// What a compiler for CUDA may rely on.
#ifdef __CUDACC__
#define ASSUME(CONDITION) __builtin_assume(CONDITION)
#else
#define ASSUME(CONDITION)
#endif

namespace refoptim {

using i64 = long long;

// Threads of a block at most; no result depends on their number.
constexpr int THREADS = 256;

__device__ constexpr int blocks(int at_once = 1) { return at_once; }

}  // namespace refoptim
