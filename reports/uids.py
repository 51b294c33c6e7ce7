"""Deterministic UIDs: the same work always writes the same objects.

All UIDs are UUID-derived (PS3.5 B.2): ``2.25.`` and a version 5 UUID as a decimal integer, so a
re-run after a crash overwrites in the PACS what the first run stored, and adds nothing.
"""

from __future__ import annotations

import uuid

_NAMESPACE = uuid.UUID("6f0a4f1e-1d3c-5b7a-9a55-3b6f8f0c2d41")  # drawn once; never change it
_SEPARATOR = "\x1f"  # ASCII unit separator: cannot occur in a UID, a digest or a role


def _derived_uid(*parts: str) -> str:
    name = _SEPARATOR.join(f"{len(part)}:{part}" for part in parts)  # length: no two joins agree
    return f"2.25.{uuid.uuid5(_NAMESPACE, name).int}"


def result_uid(
    study_instance_uid: str, generation: int, analysis: str, model_digest: str, role: str
) -> str:
    """UID of one result object, series or dimension.

    Parameters
    ----------
    study_instance_uid
        The study that the result belongs to.
    generation
        Study generation, 1-based: a late instance opens the next one.
    analysis
        Name of the analysis, e.g. ``diagnosis``.
    model_digest
        SHA-256 of the weights: another model writes other objects.
    role
        What the UID names within the result, e.g. ``sr``, ``seg-1`` or ``seg-1/series``.

    Returns
    -------
        A UID of at most 44 characters.

    Examples
    --------
    >>> result_uid("1.2.3", 1, "diagnosis", "ab" * 32, "sr")
    '2.25.202714973193471467745260129111210708304'
    """
    return _derived_uid("result", study_instance_uid, str(generation), analysis, model_digest, role)


def tracking_uid(issuer: str, patient_id: str, study_instance_uid: str, instance_uid: str) -> str:
    """UID of a lesion that the source does not track itself (PS3.3 C.8.12.13).

    Stable over models and generations, so that a later result about the same instance speaks of
    the same lesion.
    """
    return _derived_uid("lesion", issuer, patient_id, study_instance_uid, instance_uid)


def device_uid(device_serial: str) -> str:
    """UID of this installation as an observer (TID 1004, Device Observer UID)."""
    return _derived_uid("device", device_serial)
