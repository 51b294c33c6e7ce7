"""A study as routing and analyses see it: its instances, headers and documents. Pure."""

from __future__ import annotations

from pydicom import Dataset

from gateway.store.values import GenerationRow, InstanceRow
from workers.ports import Document, Documents, InstanceSource


class Study:
    """One generation of a study; what an analysis decides by may be nothing else.

    Parameters
    ----------
    documents
        Where the site's documents are; None where there are none.
    """

    def __init__(
        self, generation: GenerationRow, source: InstanceSource, documents: Documents | None = None
    ) -> None:
        self._generation = generation
        self._source = source
        self._from_site = documents
        self._documents: tuple[Document, ...] | None = None

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

    def documents(self) -> tuple[Document, ...]:
        """Return what the site sent for the study, the newest of each name; read once.

        Raises
        ------
        InstanceMissing, StorageUnavailable
            A file is gone, or the disk does not answer.
        """
        if self._documents is None:
            found = self._from_site.of(self._generation) if self._from_site is not None else ()
            self._documents = found
        return self._documents
