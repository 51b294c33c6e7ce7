"""Slides: from the instances of a study to what is said of each slide."""
