"""The audit trail outside the record: DICOM audit messages to a file and to syslog."""
