"""The pages, one module each: read the record, fill a template, decide nothing.

Each module has a ``router``; all of them are listed here. Pages stand outside the OpenAPI schema.
"""

from gateway.dashboard.pages import accounts, find, login, openid, studies, study

ROUTERS = (
    accounts.router,
    accounts.own,
    openid.router,
    find.router,
    login.router,
    studies.router,
    study.router,
)
