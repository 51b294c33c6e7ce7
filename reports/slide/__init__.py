"""Slides: `SlideResult` as SR, Segmentation, Parametric Map and picture."""
