"""A set-up that stands open is found, said and refused."""
