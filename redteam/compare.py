"""Compare defences: each trained on the same poisoned sets, ours among them.

python -m redteam.compare --attack bullseye --defences none sanitize deep-knn dp-sgd --targets 10 --sigma 0.25
"""

import argparse
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from tqdm import tqdm

from cleanlabel.redteam.__main__ import OUTPUT, params_from, parser
from cleanlabel.redteam.attacks import ATTACKS
from cleanlabel.redteam.bench import Entry, Outcome, compared, require_all
from cleanlabel.redteam.compare_report import QUESTIONS, comparison_lines, summary, write_comparison
from cleanlabel.redteam.defences import DEFENCES, defence_named
from cleanlabel.redteam.drill import Drill
from cleanlabel.redteam.params import DrillParams
from cleanlabel.redteam.prepare import prepared
from cleanlabel.sanitize import errors
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.noise import check_sigma

NOISED = ("sanitize", "noise-only")
"""Defences that are tried at every sigma."""


def entries_for(names: list[str], sigmas: list[float], settings: list[str]) -> list[Entry]:
    """The defences that take part, none first: it is what seconds and lost accuracy are measured against.

    settings: DEFENCE.KEY=VALUE, each. InputError names what is unknown or given twice.
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
    """Run or finish one attack's comparison and write its tables. What was done before is read, cell by cell."""
    if drill.params.adaptive:
        raise InputError("a comparison gives every defence the same poisons; leave --adaptive to `python -m redteam`")
    if drill.victim.summed:
        raise InputError(
            "a comparison trains linear heads, and recipe.head='bounded-influence' is none; choose another head"
        )
    first = next(drill.candidates, None)
    if first is None:
        raise InputError("there is no target to attack; bring test images")
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


def flags() -> argparse.ArgumentParser:
    """The drill's flags, and those of the comparison."""
    given = argparse.ArgumentParser(
        prog="python -m redteam.compare",
        description=(__doc__ or "").splitlines()[0],
        parents=[parser()],
        conflict_handler="resolve",  # two of the drill's flags mean something else here
    )
    given.add_argument("--attack", required=True, nargs="+", choices=sorted(ATTACKS), help="one or several")
    given.add_argument("--sigma", type=float, nargs="+", default=[0.25], help="of sanitize and noise-only (0.25)")
    given.add_argument(
        "--defences", nargs="+", default=["sanitize"], choices=list(DEFENCES), help="none is always there"
    )
    given.add_argument("--with", action="append", default=[], metavar="DEFENCE.KEY=VALUE", help="a defence's setting")
    given.add_argument("--output", type=Path, default=OUTPUT / "compare", help="default: %(default)s")
    return given


def drill_params(args: argparse.Namespace, attack: str) -> DrillParams:
    """The drill whose targets and poisons are used; a denoiser is loaded only where somebody denoises."""
    given = {key: value for key, value in vars(args).items() if key not in ("defences", "with")}
    sigma = args.sigma if "sanitize" in args.defences else [0.0]
    return params_from(argparse.Namespace(**(given | {"attack": attack, "sigma": sigma})))


def main() -> None:
    args = flags().parse_args()
    entries = entries_for(args.defences, args.sigma, vars(args)["with"])
    for attack in dict.fromkeys(args.attack):
        drill = prepared(drill_params(args, attack), args.device)
        content = comparison(drill, entries, args.output)
        print("\n".join(comparison_lines(content)), flush=True)
    print(f"\n{QUESTIONS}\n\n{args.output}: table.md, table.csv and a JSON an attack")


if __name__ == "__main__":
    errors.run(main)
