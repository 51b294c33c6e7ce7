"""Parts of the ``prognosis`` recipe: fitting, plots, page."""
