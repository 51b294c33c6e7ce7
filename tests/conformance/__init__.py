"""Keeps ``CONFORMANCE.md`` true: its tables are made from the code.

``python -m tests.conformance`` rewrites the tables in place; a test fails when they differ. It
lives beside the tests because it looks at every layer at once, the objects that ``reports`` makes
included, and nothing that runs needs it.
"""
