"""The harness: what every kernel is made of, how numbers and tensors reach it, and sums in the order of the tree."""
