"""DICOMweb (PS3.18): STOW-RS in, WADO-RS out, the worklist of our work items by UPS-RS."""
