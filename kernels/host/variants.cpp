// What the library of kernels says of itself: built once, for any processor.
#include <string.h>

#pragma GCC visibility push(default)

#define TEXT_OF(X) #X
#define TEXT(X) TEXT_OF(X)

#if defined(__x86_64__)
#include <cpuid.h>

static const unsigned FMA = 1u << 12, MOVBE = 1u << 22, POPCNT = 1u << 23, F16C = 1u << 29, LZCNT = 1u << 5;

// Compilers older than 12 cannot be asked for x86-64-v3 as a whole, nor for all its parts by name.
static bool has_v3() {
    unsigned a, b, c, d, parts = FMA | MOVBE | POPCNT | F16C;
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("bmi") || !__builtin_cpu_supports("bmi2"))
        return false;
    if (!__get_cpuid(1, &a, &b, &c, &d) || (c & parts) != parts)
        return false;
    return __get_cpuid(0x80000001, &a, &b, &c, &d) && (c & LZCNT);
}

static bool has_v4() {
    return has_v3() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl");
}

// Tells whether this processor runs the kernels of a variant.
extern "C" int refoptim_supports(const char* variant) {
    __builtin_cpu_init();
    return !strcmp(variant, "sse2") || (!strcmp(variant, "avx2") && has_v3()) ||
           (!strcmp(variant, "avx512") && has_v4());
}
#else
extern "C" int refoptim_supports(const char* variant) { return !strcmp(variant, "baseline"); }
#endif

// The variants that were built, the best first.
extern "C" const char* refoptim_variants() { return TEXT(VARIANTS); }

// The hash of the sources, as kernels/harness/source_hash.py gives it.
extern "C" const char* refoptim_source_hash() { return TEXT(SOURCE_HASH); }

extern "C" const char* refoptim_compiler() {
#if defined(__clang__)
    return __VERSION__;
#else
    return "GCC " __VERSION__;
#endif
}

// Tells whether kernels run on several threads.
extern "C" int refoptim_has_threads() {
#ifdef _OPENMP
    return 1;
#else
    return 0;
#endif
}
