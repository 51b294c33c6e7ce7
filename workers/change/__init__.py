"""Change detection: which images belong together, how two of them are compared."""
