"""The kernels: a ``.cu`` for each room they are the twin of, and a ``.py`` beside it where a step is several launches.

``harness`` is what all of them are made of; ``host`` is enough CUDA to build the same files with a C++ compiler.
"""
