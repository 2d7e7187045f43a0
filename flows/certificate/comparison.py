"""Compare a version with the newest earlier one that has a certificate, as the registry shows it."""

import csv
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mlflow.entities.model_registry import ModelVersion
from numpy.typing import NDArray

from cleanlabel.flows.artifacts import CERTIFICATE_ARTIFACT, CURVE
from cleanlabel.flows.certificate.partitions import blocks_of
from cleanlabel.flows.certificate.record import Certified
from cleanlabel.flows.certificate.sealed import attached_as
from cleanlabel.flows.store.client import TAG, Store, read_file
from cleanlabel.flows.store.registry import SMOOTHED, all_versions
from cleanlabel.models.certificate import ABSTAIN
from cleanlabel.models.plan import attempts_before, parts_of
from cleanlabel.models.rounding import down, down_text, exact, up
from cleanlabel.sanitize.door import in_words
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.imageset import ImageSet
from cleanlabel.sanitize.paths import POINTS

PLANNED = (
    *("sigma", "m", "selection", "test_sigma", "alpha", "level", "method", "simultaneous", "stopping"),
    *("raw_digest", "test_digest", "denoiser_digest", "denoiser_state", "initial_digest", "initial_state"),
    *("entropy_source", "code_digest", "classes", "image_shape", "resized_to", "n_test"),
)
"""The fields of a certificate that say how it was made. The recipe is compared as well, key by key."""


@dataclass(frozen=True)
class Previous:
    """An earlier version: its certificate, its curve, and its answer for each test image (-1: abstained)."""

    version: int
    certificate: dict[str, Any]
    radii: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    answers: dict[str, int]


@dataclass(frozen=True)
class Change:
    """One thing that differs between two versions, in words."""

    name: str
    before: str
    after: str
    difference: str = ""


def previous_version(store: Store, version: ModelVersion) -> Previous | None:
    """The newest earlier version with a readable certificate; None if there is none.

    Its content comes from the registry, for people to read. Nothing in it is audited here.
    """
    for found in reversed(all_versions(store, SMOOTHED)):
        if int(found.version) < int(version.version) and f"{TAG}level" in found.tags:  # it was certified
            try:
                return _read(store, found)
            except (InputError, AttributeError, KeyError, TypeError, ValueError):  # edited or damaged: look earlier
                continue
    return None


def _read(store: Store, version: ModelVersion) -> Previous:
    run = store.client.get_run(version.run_id)

    def rows(path: Path) -> list[dict[str, str]]:
        return list(csv.DictReader(io.StringIO(read_file(store, run, attached_as(path)).decode())))

    certificate, curve = json.loads(read_file(store, run, CERTIFICATE_ARTIFACT)), rows(CURVE)
    if certificate["plan_digest"] != version.tags[f"{TAG}plan"]:
        raise InputError(f"the certificate attached to {SMOOTHED} version {version.version} is of another plan")
    figures(certificate, certificate)  # a KeyError here rather than on the page
    return Previous(
        int(version.version),
        certificate,
        np.array([float(row["radius"]) for row in curve]),
        np.array([float(row["certified_accuracy"]) for row in curve]),
        {row["id"]: int(row["label"]) for row in rows(POINTS)},
    )


def figures(before: dict[str, Any], after: dict[str, Any]) -> list[Change]:
    """The key figures of two certificates, with their differences."""
    found = [
        _figure("accuracy of the vote", before["vote_accuracy"], after["vote_accuracy"]),
        _figure("abstained", *(up(of["abstentions"] / of["n_test"], 3) for of in (before, after))),
    ]
    earlier = {row["radius"]: row["certified_accuracy"] for row in before["at_radii"]}
    for row in after["at_radii"]:
        name = f"certified accuracy at R = {exact(row['radius'])}"
        found.append(_figure(name, earlier.get(row["radius"]), row["certified_accuracy"]))
    largest = "largest_certifiable_radius"
    return [*found, _figure("largest radius that can be certified, rounded down", before[largest], after[largest])]


def _figure(name: str, before: float | None, after: float) -> Change:
    if before is None:
        return Change(name, "not reported", down_text(after))
    return Change(name, down_text(before), down_text(after), f"{down(after, 3) - down(before, 3):+.3f}")


def changes(before: dict[str, Any], after: dict[str, Any]) -> list[Change]:
    """What differs in how two certificates were made: plan, recipe and digests."""
    pairs = [(name.replace("_", " "), before.get(name), after.get(name)) for name in PLANNED]
    pairs.append(("blocks", blocks_of(before), blocks_of(after)))
    earlier, later = ({part["name"]: in_words(part) for part in parts_of(c)} for c in (before, after))
    pairs += [(f"what is known of the {key}", earlier.get(key), later.get(key)) for key in sorted(earlier | later)]
    pairs.append(("attempt", attempts_before(before) + 1, attempts_before(after) + 1))
    old, new = before.get("recipe", {}), after.get("recipe", {})
    pairs += [(f"recipe: {key.replace('_', ' ')}", old.get(key), new.get(key)) for key in sorted(old | new)]
    return [Change(name, _short(name, was), _short(name, now)) for name, was, now in pairs if was != now]


def _short(name: str, value: Any) -> str:
    if value is None:
        return "none"
    return value[:12] if isinstance(value, str) and name.endswith("digest") else str(value)


def answers_that_changed(previous: Previous, certified: Certified, test: ImageSet) -> dict[str, int] | None:
    """How many test images gained, lost or changed their certificate. None if the test sets differ."""
    if previous.certificate["test_digest"] != test.digest or previous.answers.keys() != set(test.ids):
        return None
    before = np.array([previous.answers[name] for name in test.ids])
    had, has = before != ABSTAIN, certified.label != ABSTAIN
    return {
        "gained": int(np.sum(~had & has)),
        "lost": int(np.sum(had & ~has)),
        "kept": int(np.sum(had & has & (before == certified.label))),
        "other": int(np.sum(had & has & (before != certified.label))),
    }
