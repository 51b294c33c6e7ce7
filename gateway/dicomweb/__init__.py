"""DICOMweb (PS3.18): instances in by STOW-RS, the worklist of our work items by UPS-RS."""
