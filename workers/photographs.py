"""Photographs of a study: which instances are any, and how one is read. Pure over its ports."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from gateway.store.values import InstanceRow
from workers.errors import Undecodable
from workers.ports import InstanceSource

# PS3.4 Table B.5-1
DERMOSCOPIC_PHOTOGRAPHY = "1.2.840.10008.5.1.4.1.1.77.1.7"
VL_PHOTOGRAPHIC = "1.2.840.10008.5.1.4.1.1.77.1.4"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"

# Secondary captures hold anything; these modalities say photograph of the skin (PS3.3 C.7.3.1.1.1:
# dermoscopy, external-camera photography).
_SKIN_MODALITIES = ("DMS", "XC")


@dataclass(frozen=True, kw_only=True)
class Photograph:
    """One photograph as read."""

    header: Dataset
    """Every attribute but Pixel Data."""
    pixels: NDArray[np.uint8] | None
    """(H, W, 3) RGB; None when they cannot be decoded."""
    reason: str
    """Why they cannot be decoded; empty otherwise."""


def is_photograph(instance: InstanceRow) -> bool:
    """Whether an instance is a dermoscopic or clinical photograph."""
    if instance.sop_class_uid == SECONDARY_CAPTURE:
        return instance.modality.strip().upper() in _SKIN_MODALITIES
    return instance.sop_class_uid in (DERMOSCOPIC_PHOTOGRAPHY, VL_PHOTOGRAPHIC)


def photographs(instances: Iterable[InstanceRow]) -> tuple[InstanceRow, ...]:
    """Return those instances that are photographs, in their order."""
    return tuple(instance for instance in instances if is_photograph(instance))


def read_photograph(instance: InstanceRow, source: InstanceSource) -> Photograph:
    """Read one photograph; what cannot be decoded says why.

    Raises
    ------
    Undecodable
        Not even the header can be read.
    InstanceMissing, StorageUnavailable
        The file is gone, or the disk does not answer.
    """
    header = source.header(instance.path)
    try:
        return Photograph(header=header, pixels=source.pixels(instance.path), reason="")
    except Undecodable as exc:
        reason = f"the image could not be read: {exc}"
        return Photograph(header=header, pixels=None, reason=reason)
