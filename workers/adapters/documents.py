"""Documents of a site, from the record and the spool."""

from __future__ import annotations

from pathlib import Path

from gateway.store.intake.documents import DocumentReader
from gateway.store.values import GenerationRow
from workers.errors import InstanceMissing, StorageUnavailable
from workers.ports import Document


class SpoolDocuments:
    """Reads documents; implements ``workers.ports.Documents``."""

    def __init__(self, record: DocumentReader, spool: Path) -> None:
        self._record = record
        self._spool = spool

    def of(self, generation: GenerationRow) -> tuple[Document, ...]:
        """Return the newest document of each name that a generation holds, by name."""
        return tuple(
            Document(name=row.name, media_type=row.media_type, content=self._read(row.path))
            for row in self._record.of_generation(generation.study_id, generation.number)
        )

    def _read(self, path: str) -> bytes:
        try:
            return (self._spool / path).read_bytes()
        except FileNotFoundError as exc:
            raise InstanceMissing("a document of the site is not in the spool any more") from exc
        except OSError as exc:
            raise StorageUnavailable(f"the spool cannot be read ({exc.strerror})") from exc
