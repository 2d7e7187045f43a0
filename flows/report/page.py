"""The review page of a certified version: one self-contained HTML file that loads nothing from a network."""

import base64
import hashlib
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from numpy.typing import NDArray

from cleanlabel.flows.certificate.comparison import Previous, answers_that_changed, changes, figures
from cleanlabel.flows.certificate.figures import what_it_buys
from cleanlabel.flows.certificate.gate import Verdict
from cleanlabel.flows.certificate.influences import WAYS, influence_of
from cleanlabel.flows.certificate.partitions import partitions_of
from cleanlabel.flows.certificate.record import Certified
from cleanlabel.flows.ensemble.provenance import shared_with_test
from cleanlabel.flows.report import influences
from cleanlabel.flows.report.card import (
    SOURCES,
    assumptions,
    audit_command,
    level_in_words,
    models_in_words,
    not_covered,
    promise,
    provenance_notices,
    recipe_in_words,
    seen_in_words,
)
from cleanlabel.flows.report.curve import curve_radii
from cleanlabel.flows.report.drawing import Line, bins_of, curve, data_uri, heat_map, histogram, thumbnail, votes_bar
from cleanlabel.flows.report.influences import frontier_grid, influence_in_words
from cleanlabel.flows.report.partitions import costs_in_words, median_of, most_in_words, partition_in_words
from cleanlabel.flows.report.tables import pivot
from cleanlabel.flows.report.wording import accuracy_name, title
from cleanlabel.flows.store.client import TAG, Store, find_runs
from cleanlabel.flows.store.registry import SMOOTHED
from cleanlabel.models.certificate import ABSTAIN, certified_accuracy
from cleanlabel.sanitize.imageset import ImageSet

WEB = Path(__file__).parent / "web"
SHOWN = 48
"""The most test images in a gallery: enough to see what they share, few enough for a mail attachment."""
SIZES = {"wide": (960, 380), "narrow": (350, 300)}
"""Widths of a drawing in pixels, on a desktop and on a phone."""
BINS = {"wide": 20, "narrow": 10}
AT_ONCE = 12
"""How many images of a gallery are visible before it is unfolded."""


@dataclass(frozen=True)
class Case:
    """A test image for the reviewer, with its top classes and their votes."""

    id: str
    image: str
    truth: str
    label: str | None
    radius: float
    top: list[tuple[str, int]]
    bar: str


@dataclass(frozen=True)
class Gallery:
    """The shown cases of one kind, and the number of all of them."""

    cases: list[Case]
    total: int


def render(
    certified: Certified,
    verdict: Verdict | None,
    version: int,
    raw: ImageSet,
    test: ImageSet,
    sheet: bytes,
    previous: Previous | None = None,
    environments: dict[str, int] | None = None,
) -> str:
    """The page of a certified version. The same input gives the same text, whenever and wherever it is made.

    verdict: None if the gate did not judge the version. sheet: the PNG of raw and sanitized examples. environments:
    each environment of the draws, with its number of draws. The template escapes all values as text, and the page's
    content security policy (CSP) allows only its own script.
    """
    c = certified.certificate
    now = _line(certified, test)
    before = Line(previous.radii, previous.accuracy) if previous else None
    style, script = ((WEB / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    partitions = partitions_of(c)
    influence = influence_of(c)
    voters, voter_words = _voters(c), "images' worth" if influence else "blocks" if partitions else "votes"
    bins = {name: bins_of(certified.counts, certified.label, test.labels, voters, n) for name, n in BINS.items()}
    wrong, abstained = _galleries(certified, test)
    words = {
        "model": SMOOTHED,
        "version": version,
        "title": title(c),
        "c": c,
        "verdict": verdict,
        "promise": promise(c),
        "not_covered": not_covered(c),
        "assumptions": assumptions(c),
        "notices": [*notices(certified, test), *filter(None, [shared_with_test(raw, test)])],
        "curves": {name: _curve(c, now, before, size) for name, size in SIZES.items()},
        "readings": (readings := _readings(c, now, before)),
        "readings_json": json.dumps(readings),
        "shown": _first_shown(c, now),
        "previous": previous,
        "partitions": partitions and _partitions(partitions),
        "influence": influence and _influence(influence),
        "accuracy_name": accuracy_name(c),
        "voters": voters,
        "voter_words": voter_words,
        "images": pivot(c["at_images"], "images", "epsilon_255"),
        "triggers": pivot(c["at_triggers"], "trigger_l2", "radius") if c["at_triggers"] else None,
        "raw": raw,
        "classes": _per_class(raw),
        "sheet": data_uri(sheet),
        "bins": bins["wide"],
        "histograms": {name: histogram(bins[name], size, voter_words) for name, size in SIZES.items()},
        "at_once": AT_ONCE,
        "unanimous": int(np.sum(certified.counts.max(axis=1) == voters)),
        "fewest": int(certified.counts.max(axis=1)[held].min()) if (held := certified.label != ABSTAIN).any() else None,
        "wrong": wrong,
        "abstained": abstained,
        "figures": figures(previous.certificate, c) if previous else [],
        "changes": changes(previous.certificate, c) if previous else [],
        "answers": answers_that_changed(previous, certified, test) if previous else None,
        "provenance": _provenance(c, raw),
        "environments": sorted((environments or {}).items()),
        "audit_command": audit_command(version),
        "style": style,
        "script": script,
        "style_hash": _hash(style),
        "script_hash": _hash(script),
    }
    templates = Environment(
        loader=FileSystemLoader(WEB),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return templates.get_template("page.html").render(words)


def environments_of(store: Store, run_id: str) -> dict[str, int]:
    """Each environment of an ensemble's draws (processor, threads, libraries), with its number of draws."""
    runs = find_runs(store, f"tags.mlflow.parentRunId = '{run_id}' and attributes.status = 'FINISHED'")
    return dict(Counter(run.data.tags.get(f"{TAG}environment", "not recorded") for run in runs))


def notices(certified: Certified, test: ImageSet) -> list[str]:
    """Notes on this certificate that a reviewer might overlook."""
    c = certified.certificate
    found = []
    if c["entropy_source"] != "os":
        found.append("The noise was known beforehand: an attacker could have prepared for it. For tests only.")
    found += provenance_notices(c)
    if c["attempt"]:
        found.append(
            f"Attempt {c['attempt'] + 1} on this raw set, so it is held to the smaller level {c['level']:.3g}."
            if c["attempt"] >= c.get("ensembles", 1)
            else f"Attempt {c['attempt'] + 1} on this raw set; it shares alpha with the others that were declared "
            f"beforehand, {c['ensembles']} in all, and is held to the level {c['level']:.3g}."
        )
    if c.get("ledger") == "new":
        found.append(
            "The project's ledger of attempts began with this ensemble: attempts on this raw set that neither the "
            "store nor git knew by then (made on another machine, or in a store that is gone) are unknown."
        )
    if c["missing_draws"]:
        models = "draws, each a model of every block," if partitions_of(c) else "models"
        found.append(f"{len(c['missing_draws'])} of {c['m']} {models} are missing. They count against every answer.")
    wrong = int(np.sum((certified.label != test.labels) & (certified.label != ABSTAIN)))
    if wrong:
        found.append(
            f"{wrong} of {c['n_test']} answers are certified and wrong: no change within their radius makes them "
            "right either. They are shown below."
        )
    return found


def _line(certified: Certified, test: ImageSet) -> Line:
    radii = curve_radii(float(certified.radius.max(initial=0)))
    return Line(radii, certified_accuracy(certified.label, certified.radius, test.labels, radii))


def _reach(now: Line, before: Line | None) -> float:
    return float(max(now.radii[-1], before.radii[-1] if before else 0.0))


def _curve(c: dict[str, Any], now: Line, before: Line | None, size: tuple[int, int]) -> str:
    section = partitions_of(c)
    limit = (c["largest_certifiable_radius"], f"all {section['k']} blocks agree" if section else f"all {c['m']} agree")
    if influence_of(c):
        limit = (float("inf"), "")
    return curve(now, before, _reach(now, before), c["vote_accuracy"], limit, size, accuracy_name(c))


def _partitions(section: dict[str, Any]) -> dict[str, Any]:
    """The template's values for a partitioned ensemble."""
    columns, rows = pivot(section["grid"], "rewritten", "epsilon_255")
    others = "every other image moved by up to (255ths)"
    return {
        "k": section["k"],
        "in_words": partition_in_words(section),
        "costs": costs_in_words(section),
        "most": most_in_words(section),
        "maps": {
            name: heat_map(columns, rows, others, "images rewritten", width) for name, (width, _) in SIZES.items()
        },
        "grid": (columns, rows),
        "frontier": [(row, median_of(row)) for row in section["frontier"]],
    }


def _influence(section: dict[str, Any]) -> dict[str, Any]:
    """The template's values for sums of bounded influences."""
    grid = frontier_grid(section) if section["frontier"] else None
    across, down = "joint radius R of all others", "images rewritten"
    maps = {name: heat_map(*grid, across, down, width) for name, (width, _) in SIZES.items()} if grid else None
    return {
        "in_words": influence_in_words(section),
        "most": influences.most_in_words(section),
        "counts": section["counts"],
        "ways": WAYS,
        "grid": grid,
        "maps": maps,
    }


def _readings(c: dict[str, Any], now: Line, before: Line | None) -> list[dict[str, Any]]:
    """The reading at each radius of the curve: its place as shares of the drawing's width and height, and its text."""
    reach, dimension = _reach(now, before), int(np.prod(c["image_shape"]))
    found = []
    for r, share in zip(now.radii.tolist(), now.accuracy.tolist(), strict=True):
        past = before is not None and r > before.radii[-1]
        earlier = None if before is None else 0.0 if past else float(before.accuracy[np.searchsorted(before.radii, r)])
        found.append(
            {
                "x": round(r / reach, 5),
                "y": round(share, 5),
                "radius": f"{r:.3f}",
                "accuracy": f"{share:.3f}",
                "before": "" if earlier is None else f"{earlier:.3f}",
                "buys": what_it_buys(r, c["reported"]["epsilon_255"], dimension),
            }
        )
    return found


def _first_shown(c: dict[str, Any], now: Line) -> int:
    """The index of the curve's radius that is shown first: the middle one of the reported radii."""
    radii = [row["radius"] for row in c["at_radii"] if 0 < row["radius"] <= now.radii[-1]] or [0.0]
    return int(np.abs(now.radii - radii[len(radii) // 2]).argmin())


def _galleries(certified: Certified, test: ImageSet) -> tuple[Gallery, Gallery]:
    """Two galleries: wrong certificates, largest radius first; abstentions, fewest votes for the top class first."""
    wrong = np.flatnonzero((certified.label != test.labels) & (certified.label != ABSTAIN))
    abstained = np.flatnonzero(certified.label == ABSTAIN)
    in_order = (
        wrong[np.argsort(-certified.radius[wrong], kind="stable")],
        abstained[np.argsort(certified.counts[abstained].max(axis=1), kind="stable")],
    )
    first, second = (Gallery([_case(certified, test, i) for i in rows[:SHOWN]], len(rows)) for rows in in_order)
    return first, second


def _case(certified: Certified, test: ImageSet, row: np.int64) -> Case:
    votes, label = certified.counts[row], int(certified.label[row])
    top = [int(i) for i in np.argsort(-votes, kind="stable")[:2]]
    return Case(
        test.ids[row],
        thumbnail(test.images[row]),
        test.classes[int(test.labels[row])],
        None if label == ABSTAIN else test.classes[label],
        float(certified.radius[row]),
        [(test.classes[i], int(votes[i])) for i in top],
        votes_bar([int(votes[i]) for i in top], _bar(certified.certificate)),
    )


def _voters(c: dict[str, Any]) -> int:
    """The most that a class can have: votes, blocks, or images' worth of influence."""
    section, influence = partitions_of(c), influence_of(c)
    return max(influence["class_sizes"]) if influence else section["k"] if section else c["m"]


def _bar(c: dict[str, Any]) -> int:
    """The full length of a bar of two classes: votes are divided between classes, sums are not."""
    return _voters(c) * (2 if influence_of(c) else 1)


def _per_class(raw: ImageSet) -> str:
    sizes: NDArray[np.int64] = np.bincount(raw.labels, minlength=len(raw.classes))
    least, most = int(sizes.min()), int(sizes.max())
    return f"{least} images a class" if least == most else f"{least} to {most} images a class"


def _provenance(c: dict[str, Any], raw: ImageSet) -> list[tuple[str, str, str]]:
    """Name, description and digest of everything this version was made from."""
    trigger = f"; sigma_x = {c['test_sigma']:g} on test inputs too, one sample a model and input"
    return [
        ("raw set", f"{len(raw)} images", c["raw_digest"]),
        *([("blocks", partition_in_words(section), "")] if (section := partitions_of(c)) else []),
        ("test set", f"{c['n_test']} images", c["test_digest"]),
        ("denoiser", seen_in_words(c, "denoiser"), c["denoiser_digest"] or ""),
        *([("initial weights", seen_in_words(c, "initial"), c["initial_digest"])] if c["initial_digest"] else []),
        ("noise", f"sigma = {c['sigma']:g} in [0,1] pixel units{trigger if c['test_sigma'] else ''}", ""),
        ("entropy", f"{SOURCES[c['entropy_source']]}; the commitment to it", c["entropy_commitment"]),
        ("models", models_in_words(c), ""),
        ("recipe", recipe_in_words(c), c["recipe_digest"]),
        ("method", level_in_words(c), ""),
        ("plan", "recorded before the first draw", c["plan_digest"]),
        ("votes", "Merkle root over the votes of all draws", c["votes_root"]),
        ("code", "of what determines a draw", c["code_digest"]),
    ]


def _hash(content: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}"
