"""Lossless decoding: target, draft head and tree in fixed buffers, and the loop that runs them."""
