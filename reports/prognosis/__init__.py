"""``PrognosisResult`` as DICOM: a structured report, and one page as PDF and as a picture."""

from reports.prognosis.encode import encode_prognosis

__all__ = ["encode_prognosis"]
