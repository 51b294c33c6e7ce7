"""``python -m workers``: one worker process group for all queues."""

from __future__ import annotations

import os
import sys

from pydantic import ValidationError

from gateway.audit.activity import activity
from gateway.errors import GatewayError
from gateway.hardening.findings import WORK, Setup
from gateway.hardening.rules import keep_private, refuse_weak
from gateway.logs import configure_logging
from gateway.settings import reject_unknown_environment
from gateway.store.schema import refuse_newer_schema
from workers.app import run
from workers.bootstrap import Settings
from workers.errors import RegistryError


def main() -> int:
    """Run until SIGTERM; a setting or an analysis that cannot be used ends it at once."""
    configure_logging("workers")
    try:
        reject_unknown_environment(os.environ)
        keep_private()
        refuse_weak(Setup(services=frozenset({WORK})))
        settings = Settings()
        refuse_newer_schema(settings.store.record_url)
        with activity(settings.store.record_url, f"workers {settings.worker.lane}"):
            return run(settings)
    except ValidationError as exc:
        names = ", ".join(".".join(str(part) for part in each["loc"]) for each in exc.errors())
        print(f"workers: settings that cannot be used: {names}", file=sys.stderr)
    except (GatewayError, RegistryError) as exc:
        print(f"workers: {exc}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
