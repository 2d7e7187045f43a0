"""Compare defences: each trained on the same poisoned sets, ours among them.

python -m redteam.compare --attack bullseye --defences none sanitize deep-knn dp-sgd --targets 10 --sigma 0.25
"""

import argparse
from pathlib import Path

from cleanlabel.redteam.__main__ import OUTPUT, params_from, parser
from cleanlabel.redteam.attacks import ATTACKS
from cleanlabel.redteam.comparison.report import QUESTIONS, comparison_lines
from cleanlabel.redteam.comparison.run import comparison, entries_for
from cleanlabel.redteam.defences import DEFENCES
from cleanlabel.redteam.drill.params import DrillParams
from cleanlabel.redteam.drill.prepare import prepared
from cleanlabel.sanitize import errors


def flags() -> argparse.ArgumentParser:
    """The drill's flags, and those of the comparison."""
    given = argparse.ArgumentParser(
        prog="python -m redteam.compare",
        description=(__doc__ or "").splitlines()[0],
        parents=[parser()],
        conflict_handler="resolve",  # two of the drill's flags mean something else here
    )
    given.add_argument("--attack", required=True, nargs="+", choices=sorted(ATTACKS), help="one attack or several")
    given.add_argument(
        "--sigma", type=float, nargs="+", default=[0.25], help="noise levels of sanitize and noise-only (0.25)"
    )
    given.add_argument(
        "--defences",
        nargs="+",
        default=["sanitize"],
        choices=list(DEFENCES),
        help="the undefended victim (none) is always added",
    )
    given.add_argument("--with", action="append", default=[], metavar="DEFENCE.KEY=VALUE", help="a defence's setting")
    given.add_argument(
        "--output", type=Path, default=OUTPUT / "compare", help="folder for tables and pictures (default: %(default)s)"
    )
    return given


def drill_params(args: argparse.Namespace, attack: str) -> DrillParams:
    """The drill whose targets and poisons are used; a denoiser is loaded only where `sanitize` takes part."""
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
    print(f"\n{QUESTIONS}\n\n{args.output}: table.md, table.csv and one JSON per attack")


if __name__ == "__main__":
    errors.run(main)
