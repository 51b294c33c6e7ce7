"""Files earlier images that we fetched ourselves, like any received instance."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator
from io import BytesIO

from pynetdicom import evt
from pynetdicom.dimse_primitives import C_STORE

from gateway.dicom.file_meta import encode_file_meta
from gateway.errors import SpoolError
from gateway.listener.acceptance import StoreStatus
from gateway.listener.filing import InstanceFiler, StoreCommand
from gateway.listener.ports import AssociationInfo
from gateway.spool import Spool

_CHUNK_BYTES = 1024 * 1024


class FetchedFiling:
    """Files what a PACS sends at our request, by C-GET (PS3.4 C.4.3) or WADO-RS (PS3.18 10.4).

    The meta information is ours and depends on the instance alone: the same instance that the PACS
    sends later by C-STORE is then the same file, and no conflict.

    Parameters
    ----------
    peer_ae_title
        AE title of the PACS that sends, or what stands for it in the record.
    """

    def __init__(self, filer: InstanceFiler, spool: Spool, peer_ae_title: str) -> None:
        self._filer = filer
        self._spool = spool
        self._association = AssociationInfo(
            association_id=uuid.uuid4().hex,
            calling_ae_title=peer_ae_title,
            called_ae_title="",
            peer_address="",
        )

    def on_store(self, event: evt.Event) -> int:
        """File one instance; return the DIMSE status of the sub-operation."""
        request = event.request
        assert isinstance(request, C_STORE)
        if request.DataSet is None:
            return int(StoreStatus.CANNOT_UNDERSTAND)
        request.DataSet.seek(0)
        return int(
            self.file(
                _blocks(request.DataSet),
                sop_class_uid=str(request.AffectedSOPClassUID),
                sop_instance_uid=str(request.AffectedSOPInstanceUID),
                transfer_syntax_uid=str(event.context.transfer_syntax),
            )
        )

    def file(
        self,
        data_set: Iterable[bytes],
        *,
        sop_class_uid: str,
        sop_instance_uid: str,
        transfer_syntax_uid: str,
    ) -> StoreStatus:
        """File one instance; return what a C-STORE of it would be answered.

        Parameters
        ----------
        data_set
            Its bytes in order; what they raise leaves nothing behind.
        """
        try:
            received = self._spool.begin()
        except SpoolError:
            return StoreStatus.OUT_OF_RESOURCES
        try:
            received.write(
                encode_file_meta(
                    sop_class_uid=sop_class_uid,
                    sop_instance_uid=sop_instance_uid,
                    transfer_syntax_uid=transfer_syntax_uid,
                )
            )
            for block in data_set:
                received.write(block)
            command = StoreCommand(
                affected_sop_class_uid=sop_class_uid,
                affected_sop_instance_uid=sop_instance_uid,
                is_fetched=True,
            )
            return self._filer.file(received, command, self._association).status
        except SpoolError:
            return StoreStatus.OUT_OF_RESOURCES
        finally:
            received.discard()


def _blocks(stream: BytesIO) -> Iterator[bytes]:
    while block := stream.read(_CHUNK_BYTES):
        yield block
