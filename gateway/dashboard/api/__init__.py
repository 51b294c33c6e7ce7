"""The REST interface, one module a topic, below ``/api``: all that the pages can do.

Each module has a ``router``; all of them are listed here. A route names the least role that may use
it (``gateway.dashboard.access.require``) and, where it changes something, ``CheckedCall``.
"""

from gateway.dashboard.api import accounts, live, metrics, schema, studies

ROUTERS = (
    accounts.router,
    accounts.own,
    live.router,
    metrics.router,
    studies.router,
    schema.router,
)
