"""What may be removed, in which order, and what must stay."""
