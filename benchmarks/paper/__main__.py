"""The paper's tables and ours: fill a table at a scale, write the page, check the data against the paper's text.

python -m benchmarks.paper fill 5 --scale cpu-small [--run --root DIR ..]
python -m benchmarks.paper page
python -m benchmarks.paper check FILE
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

from benchmarks.paper.commands import NAMES, PLACES, arguments, measuring
from benchmarks.paper.ours import SCALES, filled
from benchmarks.paper.page import PAGE, figure_section, grid, page, verdict
from benchmarks.paper.tables import missing_from, table
from cleanlabel.sanitize import errors
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.files import replacing


def fill(name: str, scale: str, places: dict[str, str | None], *, run: bool) -> list[str]:
    """Print, or run, a table's commands; then the table with our column as far as it has been measured."""
    found = measuring(name, scale)
    ready = [arguments(command, places) for command in found.commands] if run else []
    for command in found.commands or [found.why]:
        print(command)
    for words in ready:
        begun = [sys.executable, *words[1:]] if words[0] == "python" else words
        code = subprocess.run(begun, check=False, env=os.environ).returncode
        if code:
            raise InputError(
                f"{' '.join(words)} ended with status {code}; correct what its message names, then repeat this command"
            )
    if name == "figure1":
        return figure_section(scale)
    pairs = [(line, filled(int(name), line, scale)) for line in table(int(name)).lines]
    return ["", *grid(int(name), pairs), "", *verdict(pairs)]


def main() -> None:
    flags = argparse.ArgumentParser(prog="python -m benchmarks.paper", description=(__doc__ or "").splitlines()[0])
    doing = flags.add_subparsers(dest="doing", required=True)
    filling = doing.add_parser("fill", help="a table's commands, and our column as far as it has been measured")
    filling.add_argument("name", choices=NAMES)
    filling.add_argument("--scale", choices=SCALES, default="cpu-small")
    filling.add_argument("--run", action="store_true", help="run the commands first")
    for place, what in PLACES.items():
        filling.add_argument(f"--{place.lower().replace('_', '-')}", dest=place, help=what)
    doing.add_parser("page", help=f"write {PAGE.relative_to(PAGE.parents[2])}")
    checking = doing.add_parser("check", help="check that every row is in the paper's text")
    checking.add_argument("text", type=Path, help="the paper as text")
    args = flags.parse_args()
    if args.doing == "fill":
        places = {place: getattr(args, place) for place in PLACES}
        print("\n".join(fill(args.name, args.scale, places, run=args.run)))
    elif args.doing == "page":
        with replacing(PAGE) as scratch:
            scratch.write_text(page())
    else:
        if not args.text.is_file():
            raise InputError(f"{args.text} does not exist; give the paper as text")
        if absent := missing_from(args.text.read_text()):
            raise InputError(f"{args.text} lacks {'; '.join(absent)}; correct the JSON files in benchmarks/paper")
        print("every row and quote is in the text")


if __name__ == "__main__":
    errors.run(main)
