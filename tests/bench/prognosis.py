"""Prognosis without servers: reading covariates, and writing report, page and picture.

``python -m tests.bench.prognosis``. The model itself is four numbers times four; on the whole path
it is measured by ``tests.bench.analyses``.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

from reports.encode import encode
from reports.page_pdf import page_pdf
from reports.page_picture import page_picture
from reports.prognosis.sheet import prognosis_page
from tests.unit.reports.prognosis.prognosis_builders import assessed
from tests.unit.reports.report_builders import context
from tests.unit.workers.prognosis.prognosis_world import (
    FULL_BUNDLE,
    World,
    bundle,
    document,
    site_document,
)

_REPEATS = 15


def _median_ms(do: Callable[[], object]) -> float:
    do()
    times = []
    for _ in range(_REPEATS):
        started = time.perf_counter()
        do()
        times.append(time.perf_counter() - started)
    return 1000 * statistics.median(times)


def run() -> None:
    """Measure, and print a line each."""
    print("\n# prognosis: milliseconds a patient, median")
    many = bundle(*FULL_BUNDLE, *({"resourceType": "Condition", "id": str(n)} for n in range(5000)))
    documents = {"JSON document": site_document(), "FHIR bundle of 5,004": document(many)}
    for name, given in documents.items():
        took = _median_ms(lambda given=given: World(given).match())  # type: ignore[misc]
        print(f"routing, {name:<22} {took:8.1f}")
        took = _median_ms(lambda given=given: World(given).run())  # type: ignore[misc]
        print(f"analysis, {name:<21} {took:8.1f}")
    page = prognosis_page(assessed())
    print(f"page as PDF {'':<19} {_median_ms(lambda: page_pdf(page)):8.1f}")
    print(f"page as picture {'':<15} {_median_ms(lambda: page_picture(page)):8.1f}")
    conclusion = World(site_document()).run()
    given_context = context(*conclusion.sources, analysis="prognosis")
    took = _median_ms(lambda: encode(conclusion.result, given_context))
    print(f"all three objects {'':<13} {took:8.1f}")


if __name__ == "__main__":
    run()
