"""Hop 3: weights from a bucket, the Hub or a disk into tensors, in bounded memory, verified as they pass."""
