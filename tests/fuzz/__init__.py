"""Mutated input for every surface that a stranger can reach.

``python -m tests.fuzz TARGET --minutes 10`` runs one open-ended; the tests here run each for a
bounded, seeded while. See ``docs/fuzzing.md``.
"""
