"""Parts of the ``slide`` recipe: readers, features, fitting, figures, outputs."""
