"""What happens, as structured records that name the ensemble and the draw.

They are on Prefect's page, in the log of the run that they happen in, and, where CLEANLABEL_LOG names a file, in it as
JSON, a line a record, from all processes.
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
    """The log of the flow run or task that this is in; outside of any, a logger of this process."""
    with suppress(MissingContextError):
        return get_run_logger()
    return logging.getLogger("cleanlabel")


def note(what: str, **fields: str | int | float | None) -> None:
    """Record that something happened. Fields are ids and figures, never settings: no secret can be among them."""
    logger().info("%s  %s", what, " ".join(f"{name}={value}" for name, value in fields.items()))
    path = os.environ.get(LOG)
    if path:
        record = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": what, "pid": os.getpid()}
        line = json.dumps(record | fields) + "\n"
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(descriptor, line.encode())  # one write a line: lines of many processes do not mix
        finally:
            os.close(descriptor)
