"""Runs that can be interrupted: their settings and entropy, and what each step left."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.files import replacing, write_json
from cleanlabel.sanitize.noise import draw_entropy


def resumed(scratch: Path, settings: dict[str, Any]) -> bytes:
    """The entropy of the run in `scratch`: a new one, or that of the interrupted run with the same settings.

    It is drawn after the raw set's digest is fixed, which stands in the settings. InputError for other settings.
    """
    path, settings = scratch / "run.json", json.loads(json.dumps(settings))
    if path.is_file():
        found = json.loads(path.read_text())
        known = found["settings"]
        if known != settings:
            differing = ", ".join(sorted(k for k in known | settings if known.get(k) != settings.get(k)))
            raise InputError(
                f"{scratch} holds a run with other settings ({differing}); choose another --scratch, or remove it"
            )
        return bytes.fromhex(found["entropy"])
    entropy = draw_entropy("os")
    write_json(path, {"settings": settings, "entropy": entropy.hex})
    return entropy.value


def kept(path: Path, make: Callable[[], dict[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    """The arrays in `path`, made and written there if it is not."""
    if not path.is_file():
        made = make()
        with replacing(path) as part, part.open("wb") as stream:
            np.savez(stream, allow_pickle=False, **made)
    with np.load(path, allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}
