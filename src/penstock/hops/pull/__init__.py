"""Hop 2: a model from the Hub or a bucket to a node's cache or a folder, fetched once for everybody there."""
