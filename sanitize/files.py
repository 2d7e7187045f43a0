"""Write files completely or not at all."""

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cleanlabel.sanitize.errors import fullest, is_full


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """A scratch path beside `target` that replaces it if the block succeeds, and is removed if it fails.

    The block may write a file or make a directory there. A file is replaced in one step. An existing directory is
    renamed first, and restored if the new one cannot take its place.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    workspace = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    scratch = workspace / target.name
    try:
        try:
            yield scratch
        except Exception as error:
            if is_full(error) and not getattr(error, "filename", None):  # the scratch path will be gone by then
                full = str(fullest(target.parent))
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), full) from error
            raise
        aside = target.rename(workspace / "replaced") if target.is_dir() else None
        try:
            scratch.replace(target)
        except OSError:
            if aside is not None:
                aside.rename(target)
            raise
    finally:
        shutil.rmtree(workspace, ignore_errors=True)


def write_json(path: Path, content: Any) -> None:
    """Write JSON with sorted keys, atomically: the same content gives the same bytes."""
    with replacing(path) as scratch:
        scratch.write_text(json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def file_digest(path: Path) -> str:
    """sha256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
