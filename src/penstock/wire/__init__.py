"""The data plane: ranges of a source into slots of a ring, slots to a sink. Knows URLs and buffers, not models."""
