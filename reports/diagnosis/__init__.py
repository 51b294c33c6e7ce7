"""``DiagnosisResult`` as DICOM: report, masks, pictures and a page for people."""
