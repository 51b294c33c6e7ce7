"""The demonstration: rendered samples, sent over real associations."""
