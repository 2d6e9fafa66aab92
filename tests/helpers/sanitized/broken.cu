// Kernels with one mistake each, for the tests of what finds them.
namespace refoptim {

using i64 = long long;

KERNEL(broken_store)(i64* x, i64 n) {
    for (i64 i = threadIdx.x; i <= n; i += blockDim.x)
        x[i] = i;
}
EXPORT(broken_store)

KERNEL(broken_load)(const i64* x, i64 n) {
    i64 sum = 0;
    for (i64 i = threadIdx.x; i <= n; i += blockDim.x)
        sum += x[i];
    if (sum == n)
        __syncthreads();
}
EXPORT(broken_load)

KERNEL(broken_overflow)(i64* x, i64 n) { x[0] = n + 0x7FFFFFFFFFFFFFFF; }
EXPORT(broken_overflow)

struct alignas(16) Wide {
    i64 x[2];
};

KERNEL(broken_alignment)(i64* x, i64 n) {
    Wide wide = *(const Wide*)(x + 1);
    x[0] = wide.x[n];
}
EXPORT(broken_alignment)

}  // namespace refoptim
