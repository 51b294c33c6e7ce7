"""Builds the services of one worker process from settings; nothing happens at import."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import metadata
from urllib.parse import urlsplit

import cv2
from sqlalchemy import Engine

from gateway.delivery.breaker import GuardedCourier
from gateway.delivery.echo import echo
from gateway.delivery.folder import FolderSender
from gateway.delivery.routes import FOLDER, Destination, is_web_address, parse_routes
from gateway.delivery.sender import Sender
from gateway.delivery.stow import StowSender
from gateway.delivery.stow_settings import StowSettings
from gateway.listener.filing import InstanceFiler
from gateway.queue import CeleryQueue
from gateway.retention.door import open_spool
from gateway.settings import (
    BrokerSettings,
    CompletenessSettings,
    DeliverySettings,
    ListenerSettings,
    PriorSettings,
    StoreSettings,
    TlsSettings,
)
from gateway.store.engine import open_engine
from gateway.store.intake.documents import DocumentReader
from gateway.store.intake.lesions import LesionIndex
from gateway.store.intake.receiving import Intake
from gateway.store.work.deliveries import DeliveryDesk
from gateway.store.work.destinations import DestinationBoard
from gateway.store.work.ledger import WorkLedger
from gateway.store.work.recovery import RecoveryDesk
from workers import analyses
from workers.adapters.documents import SpoolDocuments
from workers.adapters.embeddings import EmbeddingFile
from workers.adapters.files import ResultsFolder
from workers.adapters.instances import SpoolInstances
from workers.adapters.priors import Archive, RecordPriors
from workers.adapters.priors_audit import AuditedArchive
from workers.adapters.priors_dicomweb import DicomwebArchive
from workers.adapters.priors_dimse import DimseArchive
from workers.adapters.slides import SpoolSlides
from workers.adapters.triton import TritonModels
from workers.analysis import Registry, load_registry
from workers.delivery import Courier
from workers.execution import Services
from workers.model_watch import ModelWatch
from workers.settings import TritonSettings, WorkerSettings


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Every setting that a worker reads."""

    store: StoreSettings = field(default_factory=StoreSettings)
    broker: BrokerSettings = field(default_factory=BrokerSettings)
    delivery: DeliverySettings = field(default_factory=DeliverySettings)
    triton: TritonSettings = field(default_factory=TritonSettings)
    worker: WorkerSettings = field(default_factory=WorkerSettings)
    listener: ListenerSettings = field(default_factory=ListenerSettings)
    priors: PriorSettings = field(default_factory=PriorSettings)
    stow: StowSettings = field(default_factory=StowSettings)
    tls: TlsSettings = field(default_factory=TlsSettings)


def offered_analyses() -> Registry:
    """Return the analyses of this installation; raises ``RegistryError``."""
    return load_registry(analyses)


def build_services(settings: Settings) -> Services:
    """Connect one process to the record, the broker, the model server and the disk.

    Connections are made when they are first used, so that a server that is down delays work and
    does not stop the worker.
    """
    # One decoder thread: the processes of the pool are the parallelism.
    cv2.setNumThreads(1)
    engine = open_engine(settings.store.record_url)
    deliveries = DeliveryDesk(engine)
    board = DestinationBoard(
        engine,
        max_pause_s=settings.delivery.max_backoff_s,
        probe_s=2 * settings.delivery.timeout_s,
    )
    models = TritonModels(settings.triton)
    return Services(
        ledger=WorkLedger(engine),
        queue=CeleryQueue(settings.broker.url),
        registry=offered_analyses(),
        source=SpoolInstances(settings.store.spool_folder),
        documents=SpoolDocuments(DocumentReader(engine), settings.store.spool_folder),
        priors=_priors(settings, engine),
        inference=models,
        embeddings=EmbeddingFile(settings.store.features_file),
        files=ResultsFolder(settings.store.results_folder),
        courier_to=_couriers(settings, board, deliveries),
        settings=settings.worker,
        results_folder=settings.store.results_folder,
        scratch_folder=settings.store.run_folder,
        destinations=parse_routes(settings.delivery.destination),
        delivery_max_backoff_s=settings.delivery.max_backoff_s,
        owner=f"{socket.gethostname()}:{os.getpid()}",
        software_version=software_version(),
        slides=SpoolSlides(settings.store.spool_folder),
        deliveries=deliveries,
        confirm=settings.delivery.confirm,
        model_watch=ModelWatch(models.is_ready, RecoveryDesk(engine).wake_analysis),
    )


def _priors(settings: Settings, engine: Engine) -> Callable[[int], RecordPriors]:
    index = LesionIndex(engine)
    archive: Archive | None = None
    if settings.priors.dicomweb_url.strip():
        spool = open_spool(settings.store, settings.listener)
        filer = InstanceFiler(Intake(engine, CompletenessSettings()), spool)
        archive = AuditedArchive(
            DicomwebArchive(settings.priors, filer, spool, tls=settings.tls),
            engine,
            name=urlsplit(settings.priors.dicomweb_url).hostname or "DICOMweb",
        )
    elif settings.priors.pacs.strip():
        pacs = Destination.parse(settings.priors.pacs)
        spool = open_spool(settings.store, settings.listener)
        dimse = DimseArchive(
            pacs,
            settings.listener.ae_title,
            settings.priors,
            filer=InstanceFiler(Intake(engine, CompletenessSettings()), spool),
            spool=spool,
            tls=settings.tls,
        )
        archive = AuditedArchive(dimse, engine, name=pacs.ae_title)

    def priors_for(attempt: int) -> RecordPriors:
        return RecordPriors(index, archive, is_last_attempt=attempt >= settings.priors.attempts)

    return priors_for


def software_version() -> str:
    """Return the version of Lentigo that is installed."""
    try:
        return metadata.version("lentigo")
    except metadata.PackageNotFoundError:  # run from a source tree
        return "0.0.0+source"


def _couriers(
    settings: Settings, board: DestinationBoard, deliveries: DeliveryDesk
) -> Callable[[str], Courier]:
    def courier_to(name: str) -> Courier:
        if name == FOLDER:
            return FolderSender()
        if is_web_address(name):
            web = StowSender(name, settings.delivery, settings.stow)
            return GuardedCourier(name, web, board, web.probe)
        destination = Destination.parse(name)
        calling = settings.delivery.calling_ae_title

        def probe() -> str:
            return echo(destination, calling_ae_title=calling, tls=settings.tls)

        sender = Sender(destination, settings.delivery, commitments=deliveries, tls=settings.tls)
        return GuardedCourier(name, sender, board, probe)

    return courier_to
