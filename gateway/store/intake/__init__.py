"""What arrives: instances, refusals, generations of studies, and the rules about them."""
