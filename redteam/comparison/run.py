"""A whole comparison: every target against every defence, then the tables."""

from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from tqdm import tqdm

from cleanlabel.redteam.comparison.bench import Entry, Outcome, compared, require_all
from cleanlabel.redteam.comparison.report import write_comparison
from cleanlabel.redteam.comparison.rows import summary
from cleanlabel.redteam.defences import defence_named
from cleanlabel.redteam.drill.drill import Drill
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.noise import check_sigma

NOISED = ("sanitize", "noise-only")
"""Defences that are tried at every sigma."""


def entries_for(names: list[str], sigmas: list[float], settings: list[str]) -> list[Entry]:
    """The defences that take part, the undefended victim first: seconds and lost accuracy are measured against it.

    settings: strings DEFENCE.KEY=VALUE. InputError names what is unknown or given twice.
    """
    own: dict[str, dict[str, str]] = {}
    for item in settings:
        name, _, rest = item.partition(".")
        key, equals, value = rest.partition("=")
        if not equals or name not in names:
            raise InputError(f"{item!r} is not DEFENCE.KEY=VALUE of one of {', '.join(names)}")
        own.setdefault(name, {})[key] = value
    entries = [Entry("none", defence_named("none"))]
    for name in dict.fromkeys(names):
        defence = defence_named(name, own.get(name))
        if name in NOISED:
            if not sigmas or not all(check_sigma(sigma, "--sigma") for sigma in sigmas):
                raise InputError(f"{name} needs noise: give --sigma numbers above 0, in [0,1] pixel units")
            entries += [Entry(name, defence, sigma) for sigma in dict.fromkeys(sigmas)]
        elif name != "none":
            entries.append(Entry(name, defence))
    return entries


def comparison(drill: Drill, entries: list[Entry], output: Path) -> dict[str, Any]:
    """Run or finish one attack's comparison and write its tables. Results of earlier runs are read, cell by cell."""
    if drill.params.adaptive:
        raise InputError("a comparison gives every defence the same poisons; leave --adaptive to `python -m redteam`")
    if drill.victim.summed:
        raise InputError(
            "a comparison trains linear heads, and recipe.head='bounded-influence' is not linear; choose another head"
        )
    first = next(drill.candidates, None)
    if first is None:
        raise InputError("there is no target to attack; give a test set with images")
    require_all(drill, entries, first)
    drill = replace(drill, candidates=chain([first], drill.candidates))
    setups = drill.chosen(tqdm.write)
    outcomes: list[Outcome] = []
    with tqdm(total=len(setups) * len(entries), unit="victim", desc=drill.params.attack) as bar:
        for number, setup in enumerate(setups):
            for outcome in compared(drill, entries, number, setup, bar.set_postfix_str):
                outcomes.append(outcome)
                bar.update()
    content = summary(drill, entries, outcomes, len(setups[0].clean))
    write_comparison(output, drill, content)
    return content
