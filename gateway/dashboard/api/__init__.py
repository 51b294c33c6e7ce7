"""The REST interface, one module a topic, below ``/api``: all that the pages can do.

Each module has a ``router``; all of them are listed here. A route names the least role that may use
it (``gateway.dashboard.access.require``) and, where it changes something, ``CheckedCall``.
"""

from gateway.dashboard.api import (
    accounts,
    administration,
    failures,
    live,
    metrics,
    models,
    overview,
    reviews,
    rules,
    schema,
    selftest,
    studies,
    views,
)

ROUTERS = (
    accounts.router,
    accounts.own,
    failures.router,
    live.router,
    metrics.router,
    overview.router,
    studies.router,
    views.router,
    administration.router,
    models.router,
    reviews.router,
    rules.router,
    selftest.router,
    schema.router,
)
