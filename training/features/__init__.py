"""Embeddings computed once and kept, and linear heads on them."""
