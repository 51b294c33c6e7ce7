"""The lesion index: which received images show the same lesion of the same patient, and when.

Keys in the order of their worth (PS3.3 C.8.12.13): Tracking UID; Tracking ID within one issuer and
patient; body site with laterality, which makes a candidate and no more. Nothing is ever matched
across patients, nor for a patient without an identifier.
"""

from __future__ import annotations

import hashlib

_SEPARATOR = "\x1f"


def patient_key(issuer_of_patient_id: str, patient_id: str) -> str:
    """Digest that stands for one patient of one issuer; empty without a Patient ID.

    Examples
    --------
    >>> patient_key("", "") == patient_key("HOSPITAL", "  ") == ""
    True
    >>> patient_key("A", "1") == patient_key("B", "1")
    False
    """
    patient_id = patient_id.strip()
    if not patient_id:
        return ""
    text = f"{issuer_of_patient_id.strip()}{_SEPARATOR}{patient_id}"
    return hashlib.sha256(text.encode()).hexdigest()
