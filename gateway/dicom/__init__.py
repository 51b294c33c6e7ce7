"""DICOM as bytes: elements, headers of files, character sets; no network, no record."""
