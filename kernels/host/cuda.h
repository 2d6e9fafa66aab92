// Enough of CUDA for a C++ compiler: a block is one thread, and blocks are shared out among the processors.
#pragma once

#include <string.h>
#if !defined(__x86_64__) && !defined(__aarch64__)
#include <fenv.h>
#endif

// All there is to need of <math.h>, which takes longer to compile than most kernels.
extern "C" float fabsf(float) noexcept;
extern "C" double fabs(double) noexcept;

#define __device__
#define __forceinline__ inline __attribute__((always_inline))
#define __shared__
#define __syncthreads()

// What a loop that is at an address will read soon may lie past the end of an array: nothing happens then.
#define FETCH_AHEAD(ADDRESS) __builtin_prefetch((const char*)(ADDRESS) + 384)

struct Index {
    long long x;
};

static thread_local Index blockIdx;
static thread_local Index gridDim;
static constexpr Index threadIdx = {0};
static constexpr Index blockDim = {1};

static inline float __fsqrt_rn(float x) { return __builtin_sqrtf(x); }
static inline double __dsqrt_rn(double x) { return __builtin_sqrt(x); }

static inline unsigned __float_as_uint(float x) {
    unsigned bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static inline float __uint_as_float(unsigned bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

template <int... J> struct Places {};
template <int N, int... J> struct PlacesUpTo : PlacesUpTo<N - 1, N - 1, J...> {};
template <int... J> struct PlacesUpTo<0, J...> {
    using Type = Places<J...>;
};

// The arithmetic of IEEE 754 as long as it lives, to nearest, subnormals kept, no flag up, however this thread was set.
class Arithmetic {
#if defined(__x86_64__)
    unsigned before, plain = 0x1F80;

public:
    Arithmetic() { __asm__ volatile("stmxcsr %0\n\tldmxcsr %1" : "=m"(before) : "m"(plain) : "memory"); }
    ~Arithmetic() { __asm__ volatile("ldmxcsr %0" : : "m"(before) : "memory"); }
#elif defined(__aarch64__)
    unsigned long mode, flags;

public:
    Arithmetic() {
        __asm__ volatile("mrs %0, fpcr\n\tmrs %1, fpsr" : "=r"(mode), "=r"(flags) : : "memory");
        __asm__ volatile("msr fpcr, xzr\n\tmsr fpsr, xzr" : : : "memory");
    }
    ~Arithmetic() { __asm__ volatile("msr fpcr, %0\n\tmsr fpsr, %1" : : "r"(mode), "r"(flags) : "memory"); }
#else
    fenv_t before;

public:
    Arithmetic() {
        fegetenv(&before);
        fesetenv(FE_DFL_ENV);
    }
    ~Arithmetic() { fesetenv(&before); }
#endif
};

// Tells whether since then something was divided by zero, or had no value.
static inline bool divided_by_zero() {
#if defined(__x86_64__)
    unsigned flags;
    __asm__ volatile("stmxcsr %0" : "=m"(flags) : : "memory");
    return flags & 5;
#elif defined(__aarch64__)
    unsigned long flags;
    __asm__ volatile("mrs %0, fpsr" : "=r"(flags) : : "memory");
    return flags & 3;
#else
    return fetestexcept(FE_DIVBYZERO | FE_INVALID);
#endif
}

// Runs a kernel on `blocks` blocks and `threads` processors; `arguments` points to its arguments, as in CUDA's launch.
template <class... A, int... J>
static void launch_with(void (*kernel)(A...), long long blocks, int threads, void** arguments, Places<J...>) {
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        Arithmetic plain;
#pragma omp for schedule(static)
        for (long long block = 0; block < blocks; block++) {
            blockIdx.x = block;
            gridDim.x = blocks;
            kernel(*(A*)arguments[J]...);
        }
    }
}

template <class... A> static void launch(void (*kernel)(A...), long long blocks, int threads, void** arguments) {
    launch_with(kernel, blocks, threads, arguments, typename PlacesUpTo<sizeof...(A)>::Type());
}

// Nobody but those who call it by name sees a kernel: two libraries in one process would share what they do not hide.
#define VISIBLE extern "C" __attribute__((visibility("default")))
#define KERNEL(NAME, ...) static void NAME
#define JOINED(A, B) A##_##B
#define JOIN(A, B) JOINED(A, B)
#define EXPORT(NAME)                                                                    \
    VISIBLE void JOIN(VARIANT, NAME)(long long blocks, int threads, void** arguments) { \
        launch(NAME, blocks, threads, arguments);                                       \
    }
