"""The gateway's promises, checked over the record and the files."""
