#pragma once
namespace refoptim { __device__ inline double power(double x, double y) { return x; } }
