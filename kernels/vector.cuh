// What kernels over whole vectors have in common: their elements are shared out to blocks in parts.
#pragma once

#include "arith.cuh"
#include "kernel.cuh"

namespace refoptim {

// Elements that a block works on in one go.
constexpr i64 PART = 1 << 12;

// Calls f(i) for i = 0, 1 … n - 1; blocks stride over parts, threads over the elements of a part.
template <class F> __device__ inline void for_each_element(i64 n, F f) {
    for (i64 start = blockIdx.x * PART; start < n; start += gridDim.x * PART) {
        i64 end = start + PART < n ? start + PART : n;
        for (i64 i = start + threadIdx.x; i < end; i += blockDim.x)
            f(i);
    }
}

}  // namespace refoptim
