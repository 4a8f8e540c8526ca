"""Servers that stand in for the Hub and the clouds, with faults: for this project's tests and for its users' tests."""
