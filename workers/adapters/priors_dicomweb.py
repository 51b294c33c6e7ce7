"""Earlier images from a PACS by DICOMweb: QIDO-RS to find, WADO-RS to fetch (PS3.18)."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import requests
from dicomweb_client import DICOMwebClient
from pydicom import Dataset

from gateway.delivery.web_session import Credentials, NotUsable, Trust, open_session
from gateway.errors import InstanceError, WebRequestRefused
from gateway.listener.acceptance import StoreStatus
from gateway.listener.filing import InstanceFiler
from gateway.settings import PriorSettings, TlsSettings
from gateway.spool import Spool
from workers.adapters.priors import Wanted
from workers.adapters.priors_choice import Candidate, choose, choose_studies, is_worth_a_look
from workers.adapters.priors_filing import FetchedFiling
from workers.adapters.wado import instance_address, read_instance, request_instance
from workers.errors import PriorsUnavailable, StorageUnavailable
from workers.ports import Checkpoint

log = logging.getLogger(__name__)

_TRACKING_UID, _TRACKING_ID = "00620021", "00620020"
_GONE = frozenset((404, 410))


class DicomwebArchive:
    """A PACS with DICOMweb.

    Parameters
    ----------
    filer
        Files what was fetched.
    spool
        Where it is kept.
    tls
        Certificates, for a PACS whose own is signed by the site's CA.
    """

    def __init__(
        self,
        settings: PriorSettings,
        filer: InstanceFiler,
        spool: Spool,
        *,
        tls: TlsSettings | None = None,
    ) -> None:
        # Its messages name UIDs.
        logging.getLogger("dicomweb_client").setLevel(logging.ERROR)
        self._settings = settings
        self._tls = tls or TlsSettings()
        self._filing = FetchedFiling(filer, spool, "WADO-RS")

    def fetch(self, wanted: Wanted, checkpoint: Checkpoint) -> int:
        """Bring earlier photographs into the record; see ``Archive``."""
        try:
            with self._session() as session:
                return self._fetch(session, wanted, checkpoint)
        except NotUsable as exc:
            raise PriorsUnavailable(
                f"the PACS for earlier images cannot be asked (LENTIGO_PRIORS_DICOMWEB_*): {exc}"
            ) from exc
        except requests.HTTPError as exc:
            status = "?" if exc.response is None else exc.response.status_code
            raise PriorsUnavailable(
                f"the PACS for earlier images answers with HTTP status {status}"
            ) from exc
        except requests.RequestException as exc:
            raise PriorsUnavailable(
                f"the PACS for earlier images cannot be reached ({type(exc).__name__})"
            ) from exc
        except ValueError as exc:  # JSON that is none
            raise PriorsUnavailable(
                f"the PACS for earlier images answers nonsense ({type(exc).__name__})"
            ) from exc

    def _session(self) -> requests.Session:
        settings, tls = self._settings, self._tls
        password, token = settings.dicomweb_password, settings.dicomweb_token
        return open_session(
            settings.dicomweb_url,
            Credentials(
                username=settings.dicomweb_username if password is not None else "",
                password=password.get_secret_value() if password is not None else "",
                token=token.get_secret_value() if token is not None else "",
            ),
            Trust(
                ca=Path(tls.ca) if tls.ca else None,
                certificate=Path(tls.certificate) if tls.ca and tls.certificate else None,
                key=Path(tls.key) if tls.key else None,
                check_host_name=tls.check_host_name,
            ),
        )

    def _client(self, session: requests.Session) -> DICOMwebClient:
        settings = self._settings
        client = DICOMwebClient(
            settings.dicomweb_url, session=session, timeout=settings.timeout_s, permissive_uid=True
        )
        client.set_http_retry_params(retry=False)  # the work item is tried again as a whole
        return client

    def _fetch(self, session: requests.Session, wanted: Wanted, checkpoint: Checkpoint) -> int:
        client = self._client(session)
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
                address = instance_address(self._settings.dicomweb_url, study_uid, series_uid, uid)
                fetched += self._bring(session, address)
        return fetched

    def _bring(self, session: requests.Session, address: str) -> bool:
        """Fetch and file one instance; one that cannot be had does not hold up its siblings."""
        try:
            response = request_instance(session, address, timeout_s=self._settings.timeout_s)
        except requests.HTTPError as exc:
            if exc.response is None or exc.response.status_code not in _GONE:
                raise
            _passed_over("the PACS lists it and does not have it")
            return False
        with response:
            try:
                meta, data_set = read_instance(response)
                status = self._filing.file(
                    data_set,
                    sop_class_uid=meta.sop_class_uid,
                    sop_instance_uid=meta.sop_instance_uid,
                    transfer_syntax_uid=meta.transfer_syntax_uid,
                )
            except (InstanceError, WebRequestRefused) as exc:
                _passed_over(str(exc))
                return False
        if status is StoreStatus.OUT_OF_RESOURCES:
            raise StorageUnavailable("an earlier image cannot be kept: no room, or no record")
        return status is StoreStatus.SUCCESS


def _passed_over(reason: str) -> None:
    log.warning(
        "an earlier image was passed over: %s", reason, extra={"action": "priors.passed_over"}
    )


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
    try:
        return [Dataset.from_json(each) for each in answers]
    except (TypeError, KeyError, AttributeError) as exc:
        raise ValueError("an answer that is no DICOM JSON model") from exc
