"""Benchmarks: both sides in one run, on the same servers, each side as its users run it."""
