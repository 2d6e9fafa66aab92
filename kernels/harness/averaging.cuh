// The weights of the average of iterates: the twin of refoptim/optimizers/averaging.py.
#pragma once

#include "power.cuh"

namespace refoptim {

// The learning rate of step k.
__device__ inline double warmed_up(double k, double lr, double warmup_steps) {
    return lr * (k <= warmup_steps ? k / warmup_steps : 1);
}

// The weight of the iterate of step k.
__device__ inline double weight(double k, double lr_max, double r, double weight_lr_power) {
    return power(k, r) * power(lr_max, weight_lr_power);
}

// The sum of the weights so far and the largest learning rate after step k, which has the rate `lr`.
template <class Registers>
__device__ inline Registers weighed(double k, double lr, double r, double weight_lr_power, const Registers& before) {
    using R = decltype(before.lr_max);
    R lr_max = R(lr > before.lr_max ? lr : before.lr_max);
    return {.weight_sum = before.weight_sum + R(weight(k, lr_max, r, weight_lr_power)), .lr_max = lr_max};
}

// The share of the iterate in the average, with the registers `after` step k; 0 if none has a weight.
template <class Registers>
__device__ inline double share(double k, double r, double weight_lr_power, const Registers& after) {
    return weight(k, after.lr_max, r, weight_lr_power) / (after.weight_sum != 0 ? after.weight_sum : 1);
}

}  // namespace refoptim
