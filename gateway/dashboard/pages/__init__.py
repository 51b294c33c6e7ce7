"""The pages, one module each: read the record, fill a template, decide nothing.

Each module has a ``router``; all of them are listed here. Pages stand outside the OpenAPI schema.
"""

from gateway.dashboard.pages import (
    accounts,
    audit,
    failures,
    find,
    login,
    models,
    nodes,
    openid,
    orders,
    overview,
    queues,
    reviews,
    rules,
    selftest,
    settings,
    storage,
    studies,
    study,
)

ROUTERS = (
    accounts.router,
    accounts.own,
    openid.router,
    overview.router,
    failures.router,
    queues.router,
    find.router,
    login.router,
    orders.router,
    studies.router,
    study.router,
    models.router,
    reviews.router,
    rules.router,
    selftest.router,
    nodes.router,
    storage.router,
    audit.router,
    settings.router,
)
