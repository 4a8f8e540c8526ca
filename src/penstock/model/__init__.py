"""What a model is: which files, how large, which tensors. Pure: bytes in, facts out."""
