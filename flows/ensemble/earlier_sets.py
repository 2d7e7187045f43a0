"""Disclose how many images of a raw set are those of an earlier one, whose attempts are counted apart.

Only equal content is the same raw set (`flows.ensemble.attempts`). A set that shares most of its images with an earlier
one starts a count of its own; what it shares is recorded with its plan, before the first draw.
"""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cleanlabel.flows.ensemble.ledger import every_certificate, families, kept_images, read_lines
from cleanlabel.flows.store.client import TAG, Store, find_runs
from cleanlabel.models.plan import Plan
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.imageset import load
from cleanlabel.sanitize.overlap import hashes
from cleanlabel.sanitize.paths import SETS

SHARE = 0.1
"""Two raw sets are alike if at least this share of the images of one of them is in the other."""


def image_hashes(images: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """One number per image (h, w, c), uint64 (n,). Grey stored as RGB is the same image as grey."""
    found = hashes(images).copy()
    if images.shape[3] > 1:
        grey = (images == images[..., :1]).all(axis=(1, 2, 3))
        found[grey] = hashes(images[grey][..., :1])
    return found.view("<u8").ravel()


def hashes_of(plan: Plan) -> NDArray[np.uint64] | None:
    """The hashes of the plan's raw set; None if data/ has no raw set. InputError if it has another one."""
    if not SETS["raw"].exists():
        return None
    raw = load(SETS["raw"])
    if raw.digest != plan.raw_digest:
        raise InputError(f"{SETS['raw']} was changed while this command planned on it; run the command again")
    return image_hashes(raw.images)


def compared(plan: Plan, own: NDArray[np.uint64] | None, store: Store | None) -> dict[str, Any]:
    """What the images of the plan's raw set, with these hashes, have in common with the raw sets of earlier ensembles.

    `images`: how many the raw set has. `compared`, `not_compared`: how many earlier raw sets have kept hashes, or none.
    `alike`: how many of them share at least SHARE, with `ensembles` in all; `most`: the one that shares most.
    `in_words` says it.
    """
    attempts = _attempts(plan, store)
    kept = {name: kept_images(name) for name in attempts} if own is not None else {}
    sets = {name: theirs for name, theirs in kept.items() if theirs is not None}
    found = []
    for name, theirs in sorted(sets.items()):
        common = int(np.isin(own, theirs).sum())
        share = max(common / len(own), float(np.isin(theirs, own).mean())) if own is not None else 0.0
        found.append((share, common, attempts[name], len(theirs), name))
    alike = [one for one in found if one[0] >= SHARE]
    record: dict[str, Any] = {
        "images": None if own is None else len(own),
        "compared": len(sets),
        "not_compared": len(attempts) - len(sets),
        "alike": len(alike),
        "ensembles": sum(one[2] for one in alike),
    }
    if alike:
        _, common, ensembles, size, name = max(alike)
        record["most"] = {"raw_set": name, "shared": common, "images": size, "ensembles": ensembles}
    return record | {"in_words": _in_words(record, max((one[1] for one in found), default=0))}


def worth_telling(record: dict[str, Any] | None) -> list[str]:
    """What a reader should know of the record `compared`, in sentences: none if nothing much is shared."""
    if not record or not (record["alike"] or record["not_compared"]):
        return []
    said = f"{record['in_words'][0].upper()}{record['in_words'][1:]}."
    return [f"{said} The level stays: only equal content is the same raw set." if record["alike"] else said]


def _attempts(plan: Plan, store: Store | None) -> dict[str, int]:
    """How many ensembles are known on each other raw set."""
    known: defaultdict[str, set[tuple[str, str]]] = defaultdict(set)
    for family in families():
        known[family] |= {line.key for line in read_lines(family)}
    for run in find_runs(store, f"tags.`{TAG}planned` = 'true'", deleted=True) if store else ():
        known[_name(run.data.params)].add((run.data.tags[f"{TAG}plan"], run.data.params["entropy_commitment"]))
    for content in every_certificate():
        if content.get("noise_stream") == plan.noise_stream:  # otherwise it is withdrawn
            known[_name(content)].add((content["plan_digest"], content["entropy_commitment"]))
    return {name: len(keys) for name, keys in known.items() if name not in (plan.family, plan.raw_digest)}


def _name(record: Mapping[str, Any]) -> str:
    """A raw set's name, the digest of its content. Older records have only a digest that depends on the ids too."""
    return str(record.get("raw_content") or record["raw_digest"])


def _in_words(record: dict[str, Any], largest: int) -> str:
    n, unknown, most = record["images"], record["not_compared"], record.get("most")
    if most:
        size = "" if most["images"] == n else f" (of {most['images']} images)"
        said = f"{most['shared']} of {n} images are those of an earlier raw set{size} with {_attempts_in_words(most)}"
        if record["alike"] > 1:
            others = {"ensembles": record["ensembles"] - most["ensembles"]}
            sets = f"{record['alike'] - 1} other earlier raw set{'s' * (record['alike'] > 2)}"
            said += f"; {sets}, with {_attempts_in_words(others)}, share{'s' * (record['alike'] == 2)} a tenth or more"
    elif record["compared"]:
        said = f"at most {largest} of {n} images are those of any one earlier raw set ({record['compared']} compared)"
    else:
        said = "the ledger holds no images of an earlier raw set to compare with"
    if unknown:
        said += f"; {unknown} earlier raw set{'s were' if unknown > 1 else ' was'} not compared, as no hashes are kept"
    return said


def _attempts_in_words(record: Mapping[str, int]) -> str:
    return f"{record['ensembles']} attempt{'s' * (record['ensembles'] != 1)}"
