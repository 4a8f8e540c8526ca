"""Hop 1: a model from the Hub or a bucket to a bucket or a folder. Plan purely, run thinly, publish last."""
