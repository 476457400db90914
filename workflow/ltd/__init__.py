"""Learning to Draft: adaptive speculative decoding with Eagle3 draft trees (arXiv 2603.01639)."""

__version__ = "0.1.0"
