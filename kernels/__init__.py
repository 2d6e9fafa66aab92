"""The kernels: sources for CUDA and for a host, and the programs of rules that take more than one launch."""
