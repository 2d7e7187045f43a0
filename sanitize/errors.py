"""Errors a person can act on: one sentence that names the value and the way out."""

import errno
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path


class InputError(ValueError):
    """Input the system refuses. Its message is the one sentence a person reads."""


class ServiceUnavailable(InputError):
    """A service that does not answer now. The same command may succeed later; it loses nothing by it."""


AWAY_STATUS = 75
"""The exit status that says so to whoever runs the command: EX_TEMPFAIL of sysexits.h."""
FULL = (errno.ENOSPC, errno.EDQUOT)
FULL_IN_WORDS = ("No space left on device", "Disk quota exceeded", " requested and ", "Not enough free space")
"""How libraries that lose the number say it: safetensors, NumPy (`1000 requested and 12 written`)."""


def run(main: Callable[[], None]) -> None:
    """Call a command's main; an InputError or a full disk ends in one sentence on stderr and status 1.

    ServiceUnavailable ends in status 75.
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
    """Say something that a person should not miss, and go on."""
    sys.stderr.write(f"warning: {words}\n")
    sys.stderr.flush()


def is_full(error: BaseException) -> bool:
    """Whether an error says that a disk, or what a user may keep on it, is full."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in FULL
    return any(words in str(error) for words in FULL_IN_WORDS)


def sentence(error: OSError) -> str:
    """What the operating system refused, where, and what to do about it."""
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
    """Of these directories and the temporary one, the first whose disk has the least room left."""
    return min((*directories, _temporary()), key=_free)


def _full(place: Path | None, reason: str) -> str:
    found = (place if place.is_dir() else place.parent) if place else fullest(Path.cwd())
    directory, temporary = found.absolute(), _temporary()
    or_elsewhere = ", or set TMPDIR to a directory with room," if directory.is_relative_to(temporary) else ""
    return f"{directory} has no room left ({reason}); make room there{or_elsewhere} and run again"


def _temporary() -> Path:
    """Where temporary files go, or would if they could be written."""
    try:
        return Path(tempfile.gettempdir()).absolute()
    except FileNotFoundError:
        return Path(os.environ.get("TMPDIR", "/tmp")).absolute()


def _free(directory: Path) -> int:
    """Bytes that may still be written there; as good as no limit where that cannot be told."""
    try:
        found = os.statvfs(directory)
    except OSError:
        return sys.maxsize
    return found.f_bavail * found.f_frsize
