"""TBP screening in the clinic: which instances are tiles, and where measurements come from."""
