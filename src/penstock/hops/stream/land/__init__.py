"""What bytes become: arrays of numpy, tensors of torch, arrays of jax. One module for each; each is imported alone."""
