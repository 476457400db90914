"""Passes over a few rows in bfloat16 as a handful of kernels a layer, written in Triton."""
