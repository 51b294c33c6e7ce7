"""Makes the weights that the model repository serves."""
