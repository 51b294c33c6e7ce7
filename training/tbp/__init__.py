"""Parts of the ``tbp`` recipe: cohort, thresholds, figures."""
