"""How much embeddings hold of the centre that made the images, and what removes it.

Measures and findings: "PathoROB", Nature Communications 17:5218, 2026 (arXiv 2507.17845).
"""
