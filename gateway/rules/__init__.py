"""Routing rules: which studies get what, when, where, and why. Pure; the record is elsewhere."""
