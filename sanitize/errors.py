"""Errors that a user can act on: one sentence with the value and what to do."""

import errno
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path


class InputError(ValueError):
    """Input that the system refuses. Its message is one sentence for the user."""


class ServiceUnavailable(InputError):
    """A service does not answer now. The same command may succeed later; no work is lost."""


AWAY_STATUS = 75
"""The exit status of a command in that case: EX_TEMPFAIL of sysexits.h."""
FULL = (errno.ENOSPC, errno.EDQUOT)
FULL_IN_WORDS = ("No space left on device", "Disk quota exceeded", " requested and ", "Not enough free space")
"""Messages for a full disk in libraries that lose the errno: safetensors, NumPy (`1000 requested and 12 written`)."""


def run(main: Callable[[], None]) -> None:
    """Call a command's main. An InputError or a full disk ends it with one sentence on stderr and status 1.

    ServiceUnavailable ends it with status 75.
    """
    try:
        main()
    except ServiceUnavailable as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(AWAY_STATUS)
    except InputError as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        sys.exit(f"error: {sentence(error)}; nothing was overwritten")
    except KeyboardInterrupt:
        sys.exit("error: interrupted; run the same command again to go on")


def warn(words: str) -> None:
    """Print a warning that the user should not miss, and continue."""
    sys.stderr.write(f"warning: {words}\n")
    sys.stderr.flush()


def is_full(error: BaseException) -> bool:
    """Whether an error says that a disk or a user's quota is full."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in FULL
    return any(words in str(error) for words in FULL_IN_WORDS)


def sentence(error: OSError) -> str:
    """A sentence for an error of the operating system: what failed, where, and what to do about it."""
    place, reason = error.filename2 or error.filename, error.strerror or str(error)
    if "No usable temporary directory" in reason:
        named = os.environ.get("TMPDIR")
        return (
            f"no temporary file can be written{f' in TMPDIR={named}, nor' if named else ''} in /tmp; "
            "set TMPDIR to a directory that exists and has room, and run again"
        )
    if is_full(error):
        return _full(Path(str(place)) if place else None, reason)
    if error.errno == errno.EFBIG:
        return f"{place or 'a file'} is larger than files may be here ({reason}); raise `ulimit -f` and run again"
    return f"{reason}{f' ({place})' if place else ''}; fix the cause and run again"


def fullest(*directories: Path) -> Path:
    """The directory, among these and the temporary one, whose disk has the least free space; the first of equals."""
    return min((*directories, _temporary()), key=_free)


def _full(place: Path | None, reason: str) -> str:
    found = (place if place.is_dir() else place.parent) if place else fullest(Path.cwd())
    directory, temporary = found.absolute(), _temporary()
    or_elsewhere = ", or set TMPDIR to a directory with room," if directory.is_relative_to(temporary) else ""
    return f"{directory} has no room left ({reason}); make room there{or_elsewhere} and run again"


def _temporary() -> Path:
    """The folder for temporary files, even if it is not writable."""
    try:
        return Path(tempfile.gettempdir()).absolute()
    except FileNotFoundError:
        return Path(os.environ.get("TMPDIR", "/tmp")).absolute()


def _free(directory: Path) -> int:
    """Bytes that can still be written there; a very large number if that is unknown."""
    try:
        found = os.statvfs(directory)
    except OSError:
        return sys.maxsize
    return found.f_bavail * found.f_frsize
