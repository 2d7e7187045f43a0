"""The content of a folder of images, with links followed: its files, and everything else, which must be reported."""

import errno
import os
import stat
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from cleanlabel.sanitize.names import is_text, shown

JUNK_FOLDERS = {
    *("__macosx", ".appledouble", ".documentrevisions-v100", ".fseventsd", ".spotlight-v100", ".temporaryitems"),
    *(".trashes", "$recycle.bin", "system volume information", "@eadir", "#recycle", "lost+found"),
    *(".dvc", ".git", ".hg", ".ipynb_checkpoints", ".svn"),
}
"""Folders that operating systems and tools create anywhere, in lower case."""
JUNK_FILES = {
    *(".directory", ".ds_store", ".localized", ".nomedia", "desktop.ini", "ehthumbs.db", "thumbs.db"),
    *(".dvcignore", ".gitattributes", ".gitignore", ".gitkeep", ".keep"),
}
"""Files that they create. Names that begin with `._` (AppleDouble files) also count."""


@dataclass(frozen=True)
class Refused:
    """An entry of a folder that is no image of the set: its path under the folder, and the reason."""

    path: str
    reason: str


@dataclass(frozen=True)
class Tree:
    """The content of a folder. Paths use `/` and are relative to it; known junk is left out.

    `tops` are the folders directly under it, `files` the regular files, `refused` the rest.
    """

    tops: tuple[str, ...]
    files: tuple[str, ...]
    refused: tuple[Refused, ...]


def is_junk(name: str, *, folder: bool) -> bool:
    """Whether an operating system or a tool created this entry, judged by its name."""
    return name.startswith("._") or name.lower() in (JUNK_FOLDERS if folder else JUNK_FILES)


def walk(root: Path) -> Tree:
    """Everything under `root`, in an order that depends on names alone. No file is opened, so nothing can block.

    Links to files and folders are followed. A folder is entered once, and further links to it are refused: so the walk
    ends, and no image counts twice.
    """
    tops: list[str] = []
    files: list[str] = []
    refused: list[Refused] = []
    entered: set[tuple[int, int]] = set()
    folders, links = deque([""]), deque[str]()
    while folders or links:
        here = folders.popleft() if folders else links.popleft()
        try:
            if not _enter(root / here, entered):
                refused.append(Refused(here, "a link to a folder that is in the set already"))
                continue
            with os.scandir(root / here) as entries:
                names = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            refused.append(Refused(here, f"a folder that cannot be opened: {error.strerror}"))
            continue
        for entry in names:
            path = f"{here}/{entry.name}" if here else entry.name
            try:
                kind = entry.stat()
            except OSError as error:
                refused.append(Refused(path, _broken(root / path, error)))
                continue
            folder = stat.S_ISDIR(kind.st_mode)
            if is_junk(entry.name, folder=folder):
                continue
            if not is_text(entry.name):
                refused.append(Refused(path, "its name is not UTF-8; rename it"))
            elif folder and entry.name.startswith("."):
                refused.append(Refused(path, "a hidden folder"))
            elif folder:
                if not here:
                    tops.append(path)
                (links if entry.is_symlink() else folders).append(path)
            elif stat.S_ISREG(kind.st_mode):
                files.append(path)
            else:
                refused.append(Refused(path, f"{_KINDS.get(stat.S_IFMT(kind.st_mode), 'a special file')}, not a file"))
    return Tree(tuple(tops), tuple(files), tuple(refused))


_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFBLK: "a device",
    stat.S_IFCHR: "a device",
}


def _enter(folder: Path, entered: set[tuple[int, int]]) -> bool:
    """Whether a folder is seen for the first time; it counts as entered from now on."""
    status = folder.stat()
    known = (status.st_dev, status.st_ino) in entered
    entered.add((status.st_dev, status.st_ino))
    return not known


def _broken(path: Path, error: OSError) -> str:
    if error.errno == errno.ELOOP:
        return "a link that leads back to itself"
    if path.is_symlink():
        return f"a broken link, to {shown(os.readlink(path))}"  # noqa: PTH115 (a Path would normalise it)
    return str(error.strerror)
