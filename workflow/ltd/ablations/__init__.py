"""Ablations and other analyses of the learned policies, in replay on the test prompts."""
