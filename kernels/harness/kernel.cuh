// What a kernel is: a function that CUDA launches by name, or that host/cuda.h calls block by block. A number beside the
// name says how many blocks a multiprocessor must be able to hold at once, which limits the registers of a thread; one
// more, how many threads a block has if not THREADS.
#pragma once

#ifdef HOST
#include "../host/cuda.h"
#elif !defined(KERNEL)
// All entries of a file are compiled; or, with CHOOSE, those whose names after CHOSEN_ stand for `~, 1`: the others are
// templates that nobody uses.
#ifdef CHOOSE
#define SECOND(A, B, ...) B
#define IS_ONE(...) SECOND(__VA_ARGS__, 0, )
#define IS_CHOSEN(NAME) IS_ONE(CHOSEN_##NAME)
#else
#define IS_CHOSEN(NAME) 1
#endif
#define ENTRY_IF_0(NAME, ...) template <class> __device__ void NAME
#define ENTRY_IF_1(NAME, ...) \
    extern "C" __global__ void __launch_bounds__(threads(__VA_ARGS__), blocks(__VA_ARGS__)) NAME
#define JOIN_ENTRY_IF(CHOSEN) ENTRY_IF_##CHOSEN
#define ENTRY_IF(CHOSEN) JOIN_ENTRY_IF(CHOSEN)
#define KERNEL(NAME, ...) ENTRY_IF(IS_CHOSEN(NAME))(NAME, __VA_ARGS__)
#define EXPORT(NAME)
#endif

// A host asks for the memory that a loop will read soon; a device has threads enough to wait.
#ifndef FETCH_AHEAD
#define FETCH_AHEAD(ADDRESS)
#endif

// The compiler of a host writes out a loop over two only where it is told to.
#ifdef HOST
#define BOTH_OF_TWO _Pragma("GCC unroll 2")
#else
#define BOTH_OF_TWO
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

__device__ constexpr int blocks(int at_once = 1, int = THREADS) { return at_once; }
__device__ constexpr int threads(int = 1, int threads = THREADS) { return threads; }

}  // namespace refoptim
