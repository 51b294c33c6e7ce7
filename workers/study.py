"""A study as routing and analyses see it: its instances, and their headers on demand. Pure."""

from __future__ import annotations

from pydicom import Dataset

from gateway.store.values import GenerationRow, InstanceRow
from workers.ports import InstanceSource


class Study:
    """One generation of a study; what an analysis decides by may be nothing else."""

    def __init__(self, generation: GenerationRow, source: InstanceSource) -> None:
        self._generation = generation
        self._source = source

    @property
    def id(self) -> int:
        """Number of the study in the record."""
        return self._generation.study_id

    @property
    def instances(self) -> tuple[InstanceRow, ...]:
        """Every accepted instance, those of earlier generations included."""
        return self._generation.instances

    def header(self, instance: InstanceRow) -> Dataset:
        """Return every attribute of one instance but Pixel Data; read anew at each call.

        Raises
        ------
        Undecodable
            The file is no DICOM instance that can be read.
        InstanceMissing, StorageUnavailable
            The file is gone, or the disk does not answer.
        """
        return self._source.header(instance.path)
