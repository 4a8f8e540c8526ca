"""The node cache: a Hugging Face cache in which a model is either there whole or not there."""
