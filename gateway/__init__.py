"""The hospital side: DICOM services, the record of studies and work, the admin page."""
