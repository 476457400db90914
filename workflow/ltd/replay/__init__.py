"""Recorded draft trees and measured latencies, and what can be computed from the two without a model."""
