"""A structured log whose records name the ensemble and the draw.

Records appear on Prefect's page in the log of their run. If CLEANLABEL_LOG names a file, all processes also append
their records to it as JSON, one line per record.
"""

import json
import logging
import os
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from prefect.exceptions import MissingContextError
from prefect.logging import get_run_logger

LOG = "CLEANLABEL_LOG"


def logger() -> Any:
    """The logger of the current flow run or task; outside of any, a logger of this process."""
    with suppress(MissingContextError):
        return get_run_logger()
    return logging.getLogger("cleanlabel")


def note(what: str, **fields: str | int | float | None) -> None:
    """Record an event. Fields are ids and figures, never settings, so that they contain no secrets."""
    logger().info("%s  %s", what, " ".join(f"{name}={value}" for name, value in fields.items()))
    path = os.environ.get(LOG)
    if path:
        record = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": what, "pid": os.getpid()}
        line = json.dumps(record | fields) + "\n"
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(descriptor, line.encode())  # one write per line: lines of different processes do not mix
        finally:
            os.close(descriptor)
