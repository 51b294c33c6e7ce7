"""Change of one lesion: cleaning, registration, comparison of two images."""
