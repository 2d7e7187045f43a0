"""What an accelerator would wait for: copies and waits of every path, per batch, step or draw, counted without one.

    python -m benchmarks.waits [--before CHECKOUT] [--quick]

It counts on the device that `tests/device/pretend.py` pretends; nothing is timed. `--before` counts the same paths with
the code of another checkout of the project, and takes its commit's name from git; without it the record's earlier
column stays. To count before this record's change:

    git worktree add /tmp/before 74c5e7f && python -m benchmarks.waits --before /tmp/before
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.common.record import RESULTS, flags, record, results

ROOT = Path(__file__).parents[1]
TESTS = ROOT / "tests"
QUICK = ["noise, a batch", "train mlp, a step"]
KINDS = ("up, pageable", "down, waits", "waits", "up, pinned", "down, pinned")
"""The first three hold up the host; the last two are queued."""


def counted(checkout: Path, paths: list[str]) -> dict[str, Any]:
    """By path, what a unit of it costs by kind, with the code of a checkout; or why the path does not run there."""
    env = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (checkout, TESTS / "device", TESTS)))}
    command = [sys.executable, str(TESTS / "device" / "paths.py"), *paths]
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True, cwd=checkout)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    return {row["path"]: row.get("unit", {"does not run": row.get("error", "")[:100]}) for row in rows}


def table(before: dict[str, Any], after: dict[str, Any]) -> str:
    """One row per path: what holds up the host, and what is queued, before and after."""
    lines = ["| path | waits before | waits after | queued before | queued after |", "|---|--:|--:|--:|--:|"]
    for path, unit in after.items():
        cells = [_sum(one, kinds) for kinds in (KINDS[:3], KINDS[3:]) for one in (before.get(path), unit)]
        lines.append(f"| {path} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _sum(unit: dict[str, Any] | None, kinds: tuple[str, ...]) -> str:
    return "–" if unit is None or "does not run" in unit else str(sum(unit.get(kind, 0) for kind in kinds))


def main() -> None:
    parser = flags("waits", __doc__, "two paths")
    parser.add_argument("--before", type=Path, help="another checkout of the project, to count there as well")
    args = parser.parse_args()
    paths = QUICK if args.quick else []
    earlier = RESULTS / "waits.json"
    figures: dict[str, Any] = {"after": counted(ROOT, paths), "before": {}, "before_commit": None}
    if args.before:
        name = subprocess.check_output(["git", "rev-parse", "--short", "HEAD"], cwd=args.before, text=True)
        figures |= {"before": counted(args.before.resolve(), paths), "before_commit": name.strip()}
    elif earlier.is_file():
        figures |= {key: json.loads(earlier.read_text())[key] for key in ("before", "before_commit")}
    print(table(figures["before"], figures["after"]))
    record("waits", figures, results(args))


if __name__ == "__main__":
    main()
