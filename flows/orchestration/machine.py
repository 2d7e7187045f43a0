"""How many batches and GPUs this machine has, and times in words. Does not import Prefect, which is slow to import."""

import os
from pathlib import Path

from cleanlabel.sanitize.errors import InputError


def workers() -> int:
    """How many batches are made at once on this machine: CLEANLABEL_WORKERS, or one per core."""
    asked = os.environ.get("CLEANLABEL_WORKERS", "")
    if asked and not (asked.isdecimal() and int(asked) > 0):
        raise InputError(f"CLEANLABEL_WORKERS={asked!r} is not a number of processes; give 1 or more")
    return int(asked) if asked else len(os.sched_getaffinity(0))


def gpus() -> int:
    """The number of this machine's GPUs: CLEANLABEL_GPUS, or those that the driver shows."""
    asked = os.environ.get("CLEANLABEL_GPUS", "")
    if asked and not asked.isdecimal():
        raise InputError(f"CLEANLABEL_GPUS={asked!r} is not a number of GPUs; give 0 or more")
    return int(asked) if asked else len(list(Path("/dev").glob("nvidia[0-9]*")))


def words(seconds: float) -> str:
    """A time in words."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
