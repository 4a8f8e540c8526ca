"""The one place that holds the version; the build reads it."""

__version__ = "0.1.0"
