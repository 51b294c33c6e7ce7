"""Simulators: cohorts where no real one can be had, made from real images and stated as such."""
