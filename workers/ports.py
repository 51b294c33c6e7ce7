"""What the path of a work item needs of the world, as Protocols and plain values. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from gateway.store.values import Claim, GenerationRow, PriorReport, Scheduled
from models.diagnosis import DiagnosisManifest

Scalar = TypeVar("Scalar", bound=np.generic)

Tensors = Mapping[str, NDArray[Any]]
"""Tensors by name; axis 0 is the batch unless said otherwise."""


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """What the model server has in service under one name now."""

    name: str
    digest: str
    """SHA-256 of the weights, 64 hexadecimal digits."""
    manifest: DiagnosisManifest


class InstanceSource(Protocol):
    """Reads received instances from the spool."""

    def header(self, path: str) -> Dataset:
        """Return every attribute but Pixel Data.

        Raises
        ------
        Undecodable
            The file is no DICOM instance that can be read.
        InstanceMissing, StorageUnavailable
            The file is gone, or the disk does not answer.
        """
        ...

    def pixels(self, path: str) -> NDArray[np.uint8]:
        """Return the first frame as (H, W, 3) uint8 RGB.

        Raises
        ------
        Undecodable
            With the readable reason.
        InstanceMissing, StorageUnavailable
            The file is gone, or the disk does not answer.
        """
        ...


class InferenceClient(Protocol):
    """Asks the model server."""

    def identify(self, model: str) -> ServedModel:
        """Return what is in service under a name.

        Raises
        ------
        ModelUnavailable
            Passing: the server does not answer, or the model is not ready.
        BadModelOutput
            The served model's manifest is missing or wrong.
        """
        ...

    def infer(self, model: str, inputs: Tensors) -> Tensors:
        """Return the outputs for one batch, each with the batch size of the inputs.

        Raises
        ------
        ModelUnavailable
            Passing: the server does not answer, or the model is not ready.
        BadModelOutput
            An output is missing, not finite or misshapen.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class WrittenFile:
    """A result file that is on disk for good."""

    path: str
    """Relative to the results folder."""
    sha256: str
    size_bytes: int


class Scratch(Protocol):
    """Keeps large arrays until the report is made, in memory or beyond it."""

    def keep(self, array: NDArray[Scalar]) -> NDArray[Scalar]:
        """Return an array with the same content.

        Raises
        ------
        StorageUnavailable
            There is no room.
        """
        ...


class ResultFiles(Protocol):
    """The results folder."""

    def write(self, study_instance_uid: str, name: str, dataset: Dataset) -> WrittenFile:
        """Write one object durably; replaces a file of the same name.

        Raises
        ------
        StorageUnavailable
            The disk does not answer or is full.
        """
        ...


class PriorReports(Protocol):
    """What a report must know of the record."""

    def prior_report(self, claim: Claim) -> PriorReport | None:
        """Return the newest report of an earlier generation of the same analysis."""
        ...

    def installation_serial(self) -> str:
        """Return this installation's serial number."""
        ...


class RoutingRecord(Protocol):
    """What routing reads and writes."""

    def load_generation(self, generation_id: int) -> GenerationRow | None:
        """Return a closed generation that still needs routing."""
        ...

    def record_routing(
        self, generation_id: int, scheduled: Sequence[Scheduled], reason: str
    ) -> list[int]:
        """Turn a closed generation into work items; return their ids."""
        ...

    def postpone_routing(self, generation_id: int, reason: str, delay_s: float) -> None:
        """Try a generation again later."""
        ...
