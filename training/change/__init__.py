"""Parts of the ``change`` recipe: pairs and figures."""
