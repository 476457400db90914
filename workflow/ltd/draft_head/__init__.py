"""The Eagle3 draft head: module, published checkpoint formats, training."""
