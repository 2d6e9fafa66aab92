// What divides the masks of cautious steps: the share of the elements of a tensor that agree, at least a thousandth.
#include "multi_tensor.cuh"

namespace refoptim {

// `counts` are those of the chunks, which stand tensor by tensor.
template <class T> __device__ inline void divide_counts(const Bucket& b, const i64* counts, T* cautions) {
    if (b.found_inf && *b.found_inf)
        return;
    for (i64 c = i64(blockIdx.x) * blockDim.x + threadIdx.x; c < b.chunks; c += i64(gridDim.x) * blockDim.x) {
        i64 tensor = b.parts[c], size = b.tables[tensor], end = c + (size + b.chunk - 1) / b.chunk, sum = 0;
        if (b.parts[b.chunks + c])
            continue;
        for (i64 i = c; i < end; i++)
            sum += counts[i];
        double share = double(sum) / double(size), least = double(1) / 1000;
        cautions[tensor] = T(share > least ? share : least);
    }
}

KERNEL(cautions_float64)(Bucket b, const i64* counts, double* cautions) { divide_counts(b, counts, cautions); }
EXPORT(cautions_float64)

KERNEL(cautions_float32)(Bucket b, const i64* counts, float* cautions) { divide_counts(b, counts, cautions); }
EXPORT(cautions_float32)

}  // namespace refoptim
