"""Errors a person can act on: one sentence that names the value and the way out."""

import sys
from collections.abc import Callable


class InputError(ValueError):
    """Input the system refuses. Its message is the one sentence a person reads."""


class Away(InputError):
    """A service that does not answer now. The same command may succeed later; it loses nothing by it."""


AWAY_STATUS = 75
"""The exit status that says so to whoever runs the command: EX_TEMPFAIL of sysexits.h."""


def run(main: Callable[[], None]) -> None:
    """Call a command's main; an InputError or a full disk ends in one sentence on stderr and status 1, Away in 75."""
    try:
        main()
    except Away as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(AWAY_STATUS)
    except InputError as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        sys.exit(f"error: {error.strerror or error}{where}; nothing was overwritten, mend that and run again")
    except KeyboardInterrupt:
        sys.exit("error: interrupted; run the same command again to go on")
