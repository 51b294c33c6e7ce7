"""Files earlier images that we fetched ourselves, like any received instance."""

from __future__ import annotations

import uuid

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
    """Answers the C-STORE sub-operations of a C-GET (PS3.4 C.4.3).

    Parameters
    ----------
    peer_ae_title
        AE title of the PACS that sends.
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
        sop_class_uid = str(request.AffectedSOPClassUID)
        sop_instance_uid = str(request.AffectedSOPInstanceUID)
        try:
            received = self._spool.begin()
        except SpoolError:
            return int(StoreStatus.OUT_OF_RESOURCES)
        try:
            received.write(
                encode_file_meta(
                    sop_class_uid=sop_class_uid,
                    sop_instance_uid=sop_instance_uid,
                    transfer_syntax_uid=str(event.context.transfer_syntax),
                )
            )
            request.DataSet.seek(0)
            while chunk := request.DataSet.read(_CHUNK_BYTES):
                received.write(chunk)
            outcome = self._filer.file(
                received,
                StoreCommand(
                    affected_sop_class_uid=sop_class_uid,
                    affected_sop_instance_uid=sop_instance_uid,
                    is_fetched=True,
                ),
                self._association,
            )
        except SpoolError:
            return int(StoreStatus.OUT_OF_RESOURCES)
        finally:
            received.discard()
        return int(outcome.status)
