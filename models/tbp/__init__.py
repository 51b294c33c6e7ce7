"""Total body photography: measurements, single lesions, the whole patient."""
