"""One module for each analysis; the registry scans this folder."""
