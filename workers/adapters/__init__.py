"""Adapters between the pipeline's ports and pydicom, Triton and the file system."""
