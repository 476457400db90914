"""The engine for a model on a CPU: whole passes as machine code, compiled by Numba at first use.

A decoding step of a small model is a few hundred operations of a few microseconds each, and starting one
costs as much as running it. Here a pass of the target and a pass of the draft head are one call each.
Everywhere else (GPUs, float16, unknown architectures) the tensor code beside this package computes the same.
"""
