"""Result kinds as DICOM objects: SR, SEG and the visual fallback."""
