"""Earlier images from a PACS by DICOMweb: QIDO-RS to find, WADO-RS to fetch (PS3.18)."""

from __future__ import annotations

import io
import logging
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

import requests
from dicomweb_client import DICOMwebClient
from pydicom import Dataset, dcmwrite

from gateway.listener.acceptance import StoreStatus
from gateway.listener.filing import InstanceFiler, StoreCommand
from gateway.listener.ports import AssociationInfo
from gateway.settings import PriorSettings
from gateway.spool import Spool
from workers.adapters.priors import Wanted
from workers.adapters.priors_choice import Candidate, choose, choose_studies, is_worth_a_look
from workers.errors import PriorsUnavailable, StorageUnavailable
from workers.ports import Checkpoint

_TRACKING_UID, _TRACKING_ID = "00620021", "00620020"
_AS_STORED = (("application/dicom", "*"),)


class DicomwebArchive:
    """A PACS with DICOMweb.

    Parameters
    ----------
    filer
        Files what was fetched.
    spool
        Where it is kept.
    """

    def __init__(self, settings: PriorSettings, filer: InstanceFiler, spool: Spool) -> None:
        # Its messages name UIDs.
        logging.getLogger("dicomweb_client").setLevel(logging.ERROR)
        self._settings = settings
        self._filer = filer
        self._spool = spool

    def fetch(self, wanted: Wanted, checkpoint: Checkpoint) -> int:
        """Bring earlier photographs into the record; see ``Archive``."""
        try:
            with requests.Session() as session:
                return self._fetch(self._client(session), wanted, checkpoint)
        except requests.HTTPError as exc:
            status = "?" if exc.response is None else exc.response.status_code
            raise PriorsUnavailable(
                f"the PACS for earlier images answers with HTTP status {status}"
            ) from exc
        except requests.RequestException as exc:
            raise PriorsUnavailable(
                f"the PACS for earlier images cannot be reached ({type(exc).__name__})"
            ) from exc
        except ValueError as exc:  # JSON or a multipart body that is none
            raise PriorsUnavailable(
                f"the PACS for earlier images answers nonsense ({type(exc).__name__})"
            ) from exc

    def _client(self, session: requests.Session) -> DICOMwebClient:
        settings = self._settings
        if settings.dicomweb_token is not None:
            token = settings.dicomweb_token.get_secret_value()
            session.headers["Authorization"] = f"Bearer {token}"
        elif settings.dicomweb_username and settings.dicomweb_password is not None:
            password = settings.dicomweb_password.get_secret_value()
            session.auth = (settings.dicomweb_username, password)
        client = DICOMwebClient(
            settings.dicomweb_url, session=session, timeout=settings.timeout_s, permissive_uid=True
        )
        client.set_http_retry_params(retry=False)  # the work item is tried again as a whole
        return client

    def _fetch(self, client: DICOMwebClient, wanted: Wanted, checkpoint: Checkpoint) -> int:
        filters = {"PatientID": wanted.patient_id}
        if wanted.issuer_of_patient_id:
            filters["IssuerOfPatientID"] = wanted.issuer_of_patient_id
        if wanted.before:
            filters["StudyDate"] = f"-{wanted.before}"
        answers = _datasets(client.search_for_studies(search_filters=filters))
        found: list[Candidate] = []
        for study in choose_studies(answers, wanted, self._settings.max_studies):
            checkpoint()
            found += _images(client, study)
            if len(found) >= self._settings.max_scanned:
                break
        chosen = choose(found, wanted, self._settings.max_instances)
        fetched = 0
        for (study_uid, series_uid), uids in chosen.items():
            for uid in uids:
                checkpoint()
                ds = client.retrieve_instance(study_uid, series_uid, uid, media_types=_AS_STORED)
                fetched += self._file(ds)
        return fetched

    def _file(self, ds: Dataset) -> bool:
        """File one instance; one that cannot be filed is quarantined like any other."""
        buffer = io.BytesIO()
        dcmwrite(buffer, ds, enforce_file_format=True)
        received = self._spool.begin()
        try:
            received.write(buffer.getvalue())
            outcome = self._filer.file(
                received,
                StoreCommand(
                    affected_sop_class_uid=str(ds.get("SOPClassUID") or ""),
                    affected_sop_instance_uid=str(ds.get("SOPInstanceUID") or ""),
                    is_fetched=True,
                ),
                AssociationInfo(
                    association_id=uuid.uuid4().hex,
                    calling_ae_title="WADO-RS",
                    called_ae_title="",
                    peer_address="",
                ),
            )
        finally:
            received.discard()
        if outcome.status is StoreStatus.OUT_OF_RESOURCES:
            raise StorageUnavailable(f"an earlier image cannot be kept: {outcome.reason}")
        return outcome.status is StoreStatus.SUCCESS


def _images(client: DICOMwebClient, study: Dataset) -> Iterator[Candidate]:
    study_uid = str(study.StudyInstanceUID)
    for series in _datasets(client.search_for_series(study_uid)):
        if not is_worth_a_look(str(series.get("Modality") or "")):
            continue
        answers = client.search_for_instances(
            study_uid, str(series.SeriesInstanceUID), fields=[_TRACKING_UID, _TRACKING_ID]
        )
        for image in _datasets(answers):
            yield Candidate.read(study, series, image)


def _datasets(answers: Sequence[dict[str, Any]]) -> list[Dataset]:
    return [Dataset.from_json(each) for each in answers]
