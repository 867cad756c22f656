"""Benchmarks of kvcore beside its peers: both in the same run, answers asserted."""
