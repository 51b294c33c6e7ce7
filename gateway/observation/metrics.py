"""Prometheus metrics: what the record has counted, and how things stand now.

Every number comes out of the record or from the disk at the moment of the scrape, so it is the
same whichever process is asked, survives ``kill -9`` and a restart, and needs no files shared
between processes.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from importlib import metadata

from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector
from sqlalchemy import Connection

from gateway.errors import GatewayError, RecordUnavailable
from gateway.observation import counting, gauges
from gateway.observation.gauge_table import Gauge, Sample
from gateway.observation.tallies import Family, read_series
from gateway.store.engine import reading

log = logging.getLogger(__name__)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
UP = Gauge(name="lentigo_record_up", help="1 while the record answers.")
ERRORS = Gauge(
    name="lentigo_scrape_errors",
    help="1 where a group of metrics could not be asked.",
    labels=("group",),
)
BUILD = Gauge(name="lentigo_build_info", help="1; the version is a label.", labels=("version",))


class RecordCollector(Collector):
    """Asks the record and this host whenever Prometheus asks us."""

    def __init__(self, place: gauges.Place, version: str) -> None:
        self._place = place
        self._version = version

    def collect(self) -> Iterable[Metric]:
        """Return every metric; those that cannot be asked now are left out."""
        samples = [Sample(gauge=BUILD, value=1.0, labels={"version": self._version})]
        failed: list[str] = []
        for name, ask in gauges.GROUPS.items():
            try:
                samples += list(ask(self._place))
            except (GatewayError, OSError, ValueError) as exc:
                failed.append(name)
                log.warning(
                    "metrics cannot be asked: %s",
                    type(exc).__name__,
                    extra={"action": "metrics.failed", "group": name},
                )
        counted: list[Metric] = []
        is_up = True
        try:
            with reading(self._place.engine) as connection:
                counted = list(_counted(connection))
        except RecordUnavailable:
            is_up = False
        samples.append(Sample(gauge=UP, value=float(is_up)))
        for name in gauges.GROUPS:
            labels = {"group": name}
            samples.append(Sample(gauge=ERRORS, value=float(name in failed), labels=labels))
        return [*_gauges(samples), *counted]


def _gauges(samples: Iterable[Sample]) -> Iterator[Metric]:
    families: dict[str, GaugeMetricFamily] = {}
    for sample in samples:
        gauge = sample.gauge
        family = families.setdefault(
            gauge.name, GaugeMetricFamily(gauge.name, gauge.help, labels=gauge.labels)
        )
        family.add_metric([sample.labels[label] for label in gauge.labels], sample.value)
    yield from families.values()


def _counted(connection: Connection) -> Iterator[Metric]:
    for family in counting.FAMILIES:
        yield (
            _histogram(connection, family) if family.is_histogram else _counter(connection, family)
        )


def _counter(connection: Connection, family: Family) -> Metric:
    labels = tuple(family.labels)
    metric = CounterMetricFamily(family.name.removesuffix("_total"), family.help, labels=labels)
    for series in read_series(connection, family):
        metric.add_metric([series.labels.get(label, "") for label in labels], series.value)
    return metric


def _histogram(connection: Connection, family: Family) -> Metric:
    labels = tuple(family.labels)
    metric = HistogramMetricFamily(family.name, family.help, labels=labels)
    for series in read_series(connection, family):
        metric.add_metric(
            [series.labels.get(label, "") for label in labels],
            buckets=list(series.buckets),
            sum_value=series.value,
        )
    return metric


def software_version() -> str:
    """Return the version of Lentigo that is installed."""
    try:
        return metadata.version("lentigo")
    except metadata.PackageNotFoundError:  # run from a source tree
        return "0.0.0+source"


def exposition(place: gauges.Place, version: str) -> bytes:
    """Return the metrics in Prometheus' text format (0.0.4)."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(RecordCollector(place, version))
    return generate_latest(registry)
