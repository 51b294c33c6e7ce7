"""What the path of a work item needs of the world, as Protocols and plain values. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from gateway.store.values import (
    Claim,
    EarlierImage,
    GenerationRow,
    InstanceRow,
    PriorReport,
    Scheduled,
)
from models.manifest import Manifest

Scalar = TypeVar("Scalar", bound=np.generic)
ManifestKind = TypeVar("ManifestKind", bound=Manifest)

Tensors = Mapping[str, NDArray[Any]]
"""Tensors by name; axis 0 is the batch unless said otherwise."""

Checkpoint = Callable[[], None]
"""Called between two parts of the work; raises when the work must stop."""


@dataclass(frozen=True, kw_only=True)
class ServedModel(Generic[ManifestKind]):
    """What the model server has in service under one name now."""

    name: str
    digest: str
    """SHA-256 of the weights, 64 hexadecimal digits."""
    manifest: ManifestKind

    def lacks_evidence(self, allows_demonstration: bool) -> str:
        """Why the model may not answer here for want of real evidence; empty when it may."""
        level = self.manifest.evidence_level
        if level == "real" or allows_demonstration:
            return ""
        return (
            f"the evidence behind the model {self.name} is '{level}', and demonstration models "
            "are not switched on (LENTIGO_WORKER_DEMONSTRATION_MODELS)"
        )


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


@dataclass(frozen=True, kw_only=True)
class Document:
    """A small file that the site sent for a study."""

    name: str
    """Its name, e.g. ``prognosis.json``; of one name only the newest is seen."""
    media_type: str
    """E.g. ``application/json`` or ``text/csv``."""
    content: bytes


class Documents(Protocol):
    """Reads the documents that the site sent for a study."""

    def of(self, generation: GenerationRow) -> tuple[Document, ...]:
        """Return the newest document of each name that a generation holds, by name.

        Raises
        ------
        InstanceMissing, StorageUnavailable
            A file is gone, or the disk does not answer.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class EarlierImages:
    """What is known of earlier images of a study's lesions."""

    of: Mapping[str, tuple[EarlierImage, ...]]
    """By SOP Instance UID of the study's image, newest first; all of them are in the spool."""
    unknown: str = ""
    """Why there may be more that nobody could be asked for; empty otherwise."""


class Priors(Protocol):
    """Finds earlier images of a study's lesions, in the record and beyond it."""

    def earlier(
        self, study_id: int, instances: Sequence[InstanceRow], checkpoint: Checkpoint
    ) -> EarlierImages:
        """Return the earlier images of these images, fetched where the record has none.

        Raises
        ------
        PriorsUnavailable
            Passing: the PACS does not answer, and will be asked again.
        StorageUnavailable
            What was fetched cannot be kept.
        """
        ...


class InferenceClient(Protocol):
    """Asks the model server."""

    def identify(self, model: str, kind: type[ManifestKind]) -> ServedModel[ManifestKind]:
        """Return what is in service under a name, its manifest read as one of this kind.

        Raises
        ------
        ModelUnavailable
            Passing: the server does not answer, or the model is not ready.
        BadModelOutput
            The served model's manifest is missing or wrong.
        """
        ...

    def infer(self, model: str, inputs: Tensors, *, is_batched: bool = True) -> Tensors:
        """Return the outputs for one request.

        Parameters
        ----------
        model
            Name in the model repository.
        inputs
            Tensors by name.
        is_batched
            Whether axis 0 is the batch; every output then has the batch size of the inputs.

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


class Embeddings(Protocol):
    """Keeps what the encoder said, so that one image is encoded once (``workers.encoding``)."""

    def get(self, encoder_digest: str, keys: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        """Return the (E,) embeddings that are kept, by key; a key that is unknown is left out."""
        ...

    def put(self, encoder_digest: str, found: Mapping[str, NDArray[np.float32]]) -> None:
        """Keep (E,) embeddings by key; what cannot be kept is encoded again another time."""
        ...


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
        self,
        generation_id: int,
        scheduled: Sequence[Scheduled],
        reason: str,
        *,
        left_out: Mapping[str, str],
    ) -> list[int]:
        """Turn a closed generation into work items; return their ids."""
        ...

    def postpone_routing(self, generation_id: int, reason: str, delay_s: float) -> None:
        """Try a generation again later."""
        ...
