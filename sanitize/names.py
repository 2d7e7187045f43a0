"""Names of images and classes: in one Unicode form everywhere, so that a set has one digest on every system.

macOS and Linux may write the same visible name in two forms (NFC, NFD). An id is in NFC; ASCII names are in it already.
"""

import unicodedata
from collections.abc import Iterable


def normal(name: str) -> str:
    """The name in Unicode's composed form, NFC."""
    return unicodedata.normalize("NFC", name)


def is_text(name: str) -> bool:
    """Whether a name is UTF-8; the operating system hands out others with surrogates in place of their bytes."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def shown(name: str) -> str:
    """A name as it can be printed on one line anywhere: line breaks, and bytes that are no UTF-8, are escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)


def twins(paths: Iterable[str]) -> tuple[str, str] | None:
    """Two paths, of files or of their folders, that differ only in case or Unicode form; None where there are none.

    Systems that do not tell upper from lower case would take one of the two for the other.
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
                break  # its own folders were met with it
    return None
