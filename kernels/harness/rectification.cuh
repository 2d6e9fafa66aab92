// The rectification of the variance of an adaptive step: RAdam's.
#pragma once

#include "power.cuh"

namespace refoptim {

// The factor that keeps the variance of the step what it would be at rho_inf.
__device__ inline double rectification(double rho, double rho_inf) {
    double ratio = (rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho);
    return power(ratio, 0.5);
}

}  // namespace refoptim
