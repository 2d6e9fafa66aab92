// Lets one allocation fail: the one with a given number among those of a least size, counted from when it was armed.
// To be preloaded. Threads count together.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>

static atomic_long left;  // 0: nothing fails and nothing is counted
static atomic_long counted;
static size_t least;

static int fails(size_t size) {
    if (!atomic_load_explicit(&left, memory_order_relaxed) || size < least)
        return 0;
    atomic_fetch_add(&counted, 1);
    return atomic_fetch_sub(&left, 1) == 1;
}

// The number of the allocation that is to fail, large to count only.
void failing_malloc_arm(long number, size_t size) {
    atomic_store(&counted, 0);
    least = size;
    atomic_store(&left, number);
}

// Lets nothing fail any more; returns how many allocations there were.
long failing_malloc_disarm(void) {
    atomic_store(&left, 0);
    return atomic_load(&counted);
}

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

// dlsym may allocate before it has found calloc.
static char early[1 << 14];
static size_t used;

void* malloc(size_t size) {
    static __typeof__(&malloc) next;
    if (fails(size))
        return errno = ENOMEM, NULL;
    if (!next)
        next = NEXT(malloc);
    return next(size);
}

void* calloc(size_t n, size_t size) {
    static __typeof__(&calloc) next;
    static int looking;
    if (looking)
        return used + n * size > sizeof early ? NULL : early + (used += n * size) - n * size;
    if (fails(n * size))
        return errno = ENOMEM, NULL;
    if (!next)
        looking = 1, next = NEXT(calloc), looking = 0;
    return next(n, size);
}

void* realloc(void* old, size_t size) {
    static __typeof__(&realloc) next;
    if (fails(size))
        return errno = ENOMEM, NULL;
    if (!next)
        next = NEXT(realloc);
    return next(old, size);
}

void free(void* x) {
    static __typeof__(&free) next;
    if ((char*)x >= early && (char*)x < early + sizeof early)
        return;
    if (!next)
        next = NEXT(free);
    next(x);
}

int posix_memalign(void** out, size_t alignment, size_t size) {
    static __typeof__(&posix_memalign) next;
    if (fails(size))
        return ENOMEM;
    if (!next)
        next = NEXT(posix_memalign);
    return next(out, alignment, size);
}

void* aligned_alloc(size_t alignment, size_t size) {
    static __typeof__(&aligned_alloc) next;
    if (fails(size))
        return errno = ENOMEM, NULL;
    if (!next)
        next = NEXT(aligned_alloc);
    return next(alignment, size);
}
