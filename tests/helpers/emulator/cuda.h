// Enough of CUDA to run kernels as a device does, for tests: each thread of a block is a thread of this computer, and
// they meet at barriers. Blocks run one after another; with BLOCKS_AT_ONCE they run side by side instead, each one thread.
#pragma once

#include <barrier>
#include <cmath>
#include <cstdio>
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

// Where the threads of a block wait for each other: all at __syncthreads, or all at the end of the block.
struct Meeting {
    struct Check {
        void operator()() noexcept {
            if (arrived[0] && arrived[1]) {
                fputs("emulator: threads end while others of their block wait at __syncthreads\n", stderr);
                abort();
            }
            arrived[0] = arrived[1] = 0;
        }
    };

    static inline std::atomic<int> arrived[2];
    std::barrier<Check> barrier;

    explicit Meeting(int threads) : barrier(threads) {}

    void wait(bool at_end) {
        arrived[at_end]++;
        barrier.arrive_and_wait();
    }
};

static Meeting* meeting;

#define __device__
#ifdef BLOCKS_AT_ONCE
#define __shared__ static thread_local
#define __syncthreads()
#else
#define __shared__ static
#ifdef NO_BARRIERS
#define __syncthreads()
#else
#define __syncthreads() meeting->wait(false)
#endif
#endif

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
#ifdef BLOCKS_AT_ONCE
    blockIdx.x = number;
    call(kernel, arguments, std::index_sequence_for<A...>());
#else
    threadIdx.x = number;
    for (blockIdx.x = 0; blockIdx.x < gridDim.x; blockIdx.x++) {
        call(kernel, arguments, std::index_sequence_for<A...>());
        meeting->wait(true);
    }
#endif
}

// Runs a kernel on `blocks` blocks of `threads` threads; `arguments` points to its arguments.
template <class... A> static void launch(void (*kernel)(A...), long long blocks, int threads, void** arguments) {
#ifdef BLOCKS_AT_ONCE
    threads = 1;
    unsigned running = blocks;
#else
    unsigned running = threads;
#endif
    Meeting here(threads);
    meeting = &here;
    gridDim.x = blocks, blockDim.x = threads;
    std::vector<std::thread> all;
    for (unsigned number = 0; number < running; number++)
        all.emplace_back(run_thread<A...>, kernel, number, arguments);
    for (std::thread& thread : all)
        thread.join();
}

#define KERNEL(NAME, ...) static void NAME
#define EXPORT(NAME)                                                                   \
    extern "C" void emulator_##NAME(long long blocks, int threads, void** arguments) { \
        launch(NAME, blocks, threads, arguments);                                      \
    }
