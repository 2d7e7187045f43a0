"""Names of images and classes in one Unicode form, so that a set has the same digest on every system.

macOS and Linux may write the same visible name in two forms (NFC, NFD). Ids are in NFC; ASCII names already are.
"""

import unicodedata
from collections.abc import Iterable


def normal(name: str) -> str:
    """The name in Unicode's composed form, NFC."""
    return unicodedata.normalize("NFC", name)


def is_text(name: str) -> bool:
    """Whether a name is UTF-8. In other names the operating system's bytes appear as surrogates."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def shown(name: str) -> str:
    """A name in printable form on one line: line breaks and bytes that are not UTF-8 are escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)


def twins(paths: Iterable[str]) -> tuple[str, str] | None:
    """Two paths, of files or of their folders, that differ only in case or Unicode form; None if there are none.

    Systems that ignore case would take one for the other.
    """
    met: dict[str, str] = {}
    for path in paths:
        parts = path.split("/")
        for end in range(len(parts), 0, -1):
            name = "/".join(parts[:end])
            known = normal(name).lower()
            if known not in met:
                met[known] = name
            elif met[known] != name:
                return met[known], name
            else:
                break  # this folder and those above it were seen before
    return None
