"""Benchmarks of hash, table and cache: each beside its peers in the same run, answers asserted."""
