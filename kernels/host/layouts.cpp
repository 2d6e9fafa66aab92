// How arrays of NumPy lie in memory, and whether they still do. Each step asks it of all of its arrays: thousands of small
// ones take a kernel less time than their attributes take Python.
#include <stdint.h>

#pragma GCC visibility push(default)

// What an array has after the `head` bytes of every object of Python: PyArrayObject_fields in numpy/ndarraytypes.h, whose
// order no release of NumPy has changed.
struct Fields {
    const void* data;
    int axes;
    const intptr_t *shape, *strides;
    const void *base, *dtype;
    int flags;
};

static const int MOST_AXES = 64;

static const Fields& fields(const char* array, intptr_t head) { return *(const Fields*)(array + head); }

// Calls f(word) for the words that say how an array lies, as long as it returns true.
template <class F> static bool each_word(const Fields& x, F f) {
    if (x.axes < 0 || x.axes > MOST_AXES || !f(x.axes) || !f((intptr_t)x.data) || !f((intptr_t)x.dtype) || !f(x.flags))
        return false;
    for (int k = 0; k < x.axes; k++)
        if (!f(x.shape[k]) || !f(x.strides[k]))
            return false;
    return true;
}

// Writes down how arrays lie, or only counts the words if there is nowhere to write; returns their number.
extern "C" intptr_t refoptim_layouts(const char* const* arrays, intptr_t count, intptr_t head, intptr_t* words) {
    intptr_t n = 0;
    for (intptr_t i = 0; i < count; i++)
        each_word(fields(arrays[i], head), [&](intptr_t word) {
            if (words)
                words[n] = word;
            n++;
            return true;
        });
    return n;
}

// Arrays, and what was written down of them.
struct Seen {
    const char* const* arrays;
    intptr_t count, head;
    const intptr_t* words;
};

// Tells whether arrays lie as was written down.
extern "C" int refoptim_lie_so(const Seen* seen) {
    const intptr_t* words = seen->words;
    for (intptr_t i = 0; i < seen->count; i++)
        if (!each_word(fields(seen->arrays[i], seen->head), [&](intptr_t word) { return word == *words++; }))
            return 0;
    return 1;
}
