"""Slides: tissue, tiles, stain, attention."""
