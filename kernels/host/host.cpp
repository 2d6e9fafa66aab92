// The kernels for one instruction set, VARIANT: compiled once for each.
#include "cuda.h"

#define refoptim JOIN(refoptim, VARIANT)
#include "packed_storage.h"

#include "../adadelta.cu"
#include "../adafactor.cu"
#include "../adagrad.cu"
#include "../adam.cu"
#include "../adamax.cu"
#include "../asgd.cu"
#include "../averages.cu"
#include "../muon.cu"
#include "../nadam.cu"
#include "../norm.cu"
#include "../radam.cu"
#include "../rmsprop.cu"
#include "../rprop.cu"
#include "../sgd.cu"
#include "../sparse_adam.cu"
#include "../sums.cu"
