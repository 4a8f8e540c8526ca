"""Manifests: typed objects in, YAML out. Pure: the same settings, model and placement give the same text."""
