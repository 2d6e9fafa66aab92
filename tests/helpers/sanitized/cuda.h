// Enough of CUDA to run kernels under sanitizers: each thread of a block is a thread of this computer, and they meet at
// barriers. Blocks run one after another.
#pragma once

#include <barrier>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <utility>
#include <vector>

struct Index {
    unsigned x;
};

static thread_local Index threadIdx, blockIdx;
static Index blockDim, gridDim;

// Where the threads of a block wait for each other: at __syncthreads, and at the end of the block.
static std::barrier<>* meeting;

#define __device__
#define __forceinline__ inline
#define __shared__ static
#define __syncthreads() meeting->arrive_and_wait()

static inline float __fsqrt_rn(float x) { return std::sqrt(x); }
static inline double __dsqrt_rn(double x) { return std::sqrt(x); }

template <class To, class From> static inline To bits_of(From x) {
    static_assert(sizeof(To) == sizeof(From));
    To bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static inline unsigned __float_as_uint(float x) { return bits_of<unsigned>(x); }
static inline float __uint_as_float(unsigned x) { return bits_of<float>(x); }
static inline long long __double_as_longlong(double x) { return bits_of<long long>(x); }
static inline double __longlong_as_double(long long x) { return bits_of<double>(x); }

template <class... A, std::size_t... J>
static void call(void (*kernel)(A...), void** arguments, std::index_sequence<J...>) {
    kernel(*(A*)arguments[J]...);
}

template <class... A> static void run_thread(void (*kernel)(A...), unsigned number, void** arguments) {
    threadIdx.x = number;
    for (blockIdx.x = 0; blockIdx.x < gridDim.x; blockIdx.x++) {
        call(kernel, arguments, std::index_sequence_for<A...>());
        meeting->arrive_and_wait();
    }
}

// Runs a kernel on `blocks` blocks of `threads` threads; `arguments` points to its arguments.
template <class... A> static void launch(void (*kernel)(A...), long long blocks, int threads, void** arguments) {
    std::barrier<> here(threads);
    meeting = &here;
    gridDim.x = blocks, blockDim.x = threads;
    std::vector<std::thread> all;
    for (int number = 0; number < threads; number++)
        all.emplace_back(run_thread<A...>, kernel, number, arguments);
    for (std::thread& thread : all)
        thread.join();
}

#define KERNEL(NAME, ...) static void NAME
#define EXPORT(NAME)                                                                    \
    extern "C" void sanitized_##NAME(long long blocks, int threads, void** arguments) { \
        launch(NAME, blocks, threads, arguments);                                       \
    }
