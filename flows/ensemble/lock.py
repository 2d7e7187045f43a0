"""One process at a time works on an ensemble."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

from cleanlabel.flows.environment import state
from cleanlabel.models.plan import Plan
from cleanlabel.sanitize.errors import InputError


@contextmanager
def ensemble_lock(plan: Plan) -> Iterator[None]:
    """Hold the plan's lock on this machine. InputError if another process works on the same ensemble."""
    path = state() / "locks" / plan.digest
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            stream.seek(0)
            raise InputError(
                f"process {stream.read().strip()} is working on this ensemble already; wait for it, or stop it"
            ) from error
        stream.truncate(0)
        stream.write(str(os.getpid()))
        stream.flush()
        yield
