"""TBP screening as DICOM: lesions for the viewer, the patient's summary, contact sheets."""
