"""The review page of a certified version: one self-contained HTML file that loads nothing from a network."""

import base64
import hashlib
import json
from collections import Counter
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
from cleanlabel.flows.certificate.reviews import END, LATER, START
from cleanlabel.flows.certificate.wording import accuracy_name, title
from cleanlabel.flows.ensemble.provenance import shared_with_test
from cleanlabel.flows.report import influences
from cleanlabel.flows.report.card import (
    SOURCES,
    assumptions,
    audit_command,
    int8_in_words,
    level_in_words,
    models_in_words,
    not_covered,
    parts_in_words,
    promise,
    recipe_in_words,
    resized_in_words,
)
from cleanlabel.flows.report.curve import curve_radii
from cleanlabel.flows.report.drawing import Line, bins_of, curve, data_uri, heat_map, histogram
from cleanlabel.flows.report.gallery import galleries, most_voters
from cleanlabel.flows.report.influences import frontier_grid, influence_in_words
from cleanlabel.flows.report.notices import notices
from cleanlabel.flows.report.partitions import costs_in_words, median_of, most_in_words, partition_in_words
from cleanlabel.flows.report.tables import pivot
from cleanlabel.flows.store.client import TAG, Store, find_runs
from cleanlabel.flows.store.registry import SMOOTHED
from cleanlabel.models.certificate import ABSTAIN, certified_accuracy
from cleanlabel.models.rounding import down, down_text, exact
from cleanlabel.sanitize.imageset import ImageSet

WEB = Path(__file__).parent / "web"
SIZES = {"wide": (960, 380), "narrow": (350, 300)}
"""Widths of a drawing in pixels, on a desktop and on a phone."""
BINS = {"wide": 20, "narrow": 10}
AT_ONCE = 12
"""How many images of a gallery are visible before it is unfolded."""


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
        "accuracy_name": accuracy_name(c),
        "images": pivot(c["at_images"], "images", "epsilon_255"),
        "triggers": pivot(c["at_triggers"], "trigger_l2", "radius") if c["at_triggers"] else None,
        "raw": raw,
        "classes": _per_class(raw),
        "sheet": data_uri(sheet),
        "provenance": _provenance(c, raw),
        "environments": sorted((environments or {}).items()),
        "audit_command": audit_command(version),
        "reviews": f"{START}\n{LATER}\n{END}",
    }
    words |= _curves(c, now, before) | _votes(certified, test) | _ways(c)
    words |= _compared(certified, previous, test) | _looks()
    templates = Environment(
        loader=FileSystemLoader(WEB),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    templates.filters |= {"down": down_text, "exact": exact}
    return templates.get_template("page.html").render(words)


def _curves(c: dict[str, Any], now: Line, before: Line | None) -> dict[str, Any]:
    """The template's values for the curve of certified accuracy and its readings."""
    readings = _readings(c, now, before)
    return {
        "curves": {name: _curve(c, now, before, size) for name, size in SIZES.items()},
        "readings": readings,
        "readings_json": json.dumps(readings),
        "shown": _first_shown(c, now),
    }


def _votes(certified: Certified, test: ImageSet) -> dict[str, Any]:
    """The template's values for the votes: histograms and galleries."""
    c, most = certified.certificate, certified.counts.max(axis=1)
    voters, held = most_voters(c), certified.label != ABSTAIN
    voter_words = "images' worth" if influence_of(c) else "blocks" if partitions_of(c) else "votes"
    bins = {name: bins_of(certified.counts, certified.label, test.labels, voters, n) for name, n in BINS.items()}
    wrong, abstained = galleries(certified, test)
    return {
        "voters": voters,
        "voter_words": voter_words,
        "bins": bins["wide"],
        "histograms": {name: histogram(bins[name], size, voter_words) for name, size in SIZES.items()},
        "unanimous": int(np.sum(most == voters)),
        "fewest": int(most[held].min()) if held.any() else None,
        "at_once": AT_ONCE,
        "wrong": wrong,
        "abstained": abstained,
    }


def _ways(c: dict[str, Any]) -> dict[str, Any]:
    """The template's values for other ways of change than moved pixels; None where the ensemble covers none."""
    partitions, influence = partitions_of(c), influence_of(c)
    return {
        "partitions": _partitions(partitions) if partitions else None,
        "influence": _influence(influence) if influence else None,
    }


def _compared(certified: Certified, previous: Previous | None, test: ImageSet) -> dict[str, Any]:
    """The template's values for the comparison with the previous version."""
    if previous is None:
        return {"previous": None, "figures": [], "changes": [], "answers": None}
    c = certified.certificate
    return {
        "previous": previous,
        "figures": figures(previous.certificate, c),
        "changes": changes(previous.certificate, c),
        "answers": answers_that_changed(previous, certified, test),
    }


def _looks() -> dict[str, str]:
    """The page's own style and script, with the hashes that its content security policy allows."""
    style, script = ((WEB / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    return {"style": style, "script": script, "style_hash": _hash(style), "script_hash": _hash(script)}


def environments_of(store: Store, run_id: str) -> dict[str, int]:
    """Each environment of an ensemble's draws (processor, threads, libraries), with its number of draws."""
    runs = find_runs(store, f"tags.mlflow.parentRunId = '{run_id}' and attributes.status = 'FINISHED'")
    return dict(Counter(run.data.tags.get(f"{TAG}environment", "not recorded") for run in runs))


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
                "x": down(r / reach, 5),
                "y": down(share, 5),
                "radius": down_text(r),
                "accuracy": down_text(share),
                "before": "" if earlier is None else down_text(earlier),
                "buys": what_it_buys(r, c["reported"]["epsilon_255"], dimension),
            }
        )
    return found


def _first_shown(c: dict[str, Any], now: Line) -> int:
    """The index of the curve's radius that is shown first: the middle one of the reported radii."""
    radii = [row["radius"] for row in c["at_radii"] if 0 < row["radius"] <= now.radii[-1]] or [0.0]
    return int(np.abs(now.radii - radii[len(radii) // 2]).argmin())


def _per_class(raw: ImageSet) -> str:
    sizes: NDArray[np.int64] = np.bincount(raw.labels, minlength=len(raw.classes))
    least, most = int(sizes.min()), int(sizes.max())
    return f"{least} images per class" if least == most else f"{least} to {most} images per class"


def _provenance(c: dict[str, Any], raw: ImageSet) -> list[tuple[str, str, str]]:
    """Name, description and digest of everything this version was made from."""
    section = partitions_of(c)
    trigger = f"; sigma_x = {c['test_sigma']:g} on test inputs too, one sample per model and input"
    return [
        ("raw set", f"{len(raw)} images{resized_in_words(c)}", c["raw_digest"]),
        *([("earlier raw sets", c["earlier_raw_sets"]["in_words"], "")] if c.get("earlier_raw_sets") else []),
        *([("blocks", partition_in_words(section), "")] if section else []),
        ("test set", f"{c['n_test']} images", c["test_digest"]),
        *parts_in_words(c),
        *([("int8 network", int8_in_words(c["int8"]), c["int8"]["digest"])] if c.get("int8") else []),
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
