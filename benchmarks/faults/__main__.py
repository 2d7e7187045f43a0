"""An ensemble whose flow, workers and MLflow server are killed at random moments: every draw is still made once.

    python -m benchmarks.faults [--quick] [--seed N]

Every kill is a SIGKILL at a random moment. After it the same command is given again, until it completes. Then each draw
must be there once, with the votes of an ensemble of the same entropy that was not disturbed. Both run in temporary
projects with the pipeline's data and denoiser (run `dvc repro denoiser` first), each with an MLflow server of its own.
"""

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.common.record import flags, record, results
from benchmarks.faults.kills import Kill, disturbed, plan_kills, undisturbed
from benchmarks.faults.project import BATCH, WORKERS, Project, make_project
from cleanlabel.sanitize import errors
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.paths import ENSEMBLE


@dataclass(frozen=True)
class Run:
    """What was measured of the two ensembles.

    draws: the finished draws of the disturbed ensemble; begun: the draws that its workers began; left: processes that
    outlived it. votes and roots: of the undisturbed ensemble, then of the disturbed one.
    """

    undisturbed_seconds: float
    seconds: float
    starts: int
    draws: list[int]
    begun: int
    left: list[str]
    votes: list[NDArray[Any]]
    roots: list[str]


def measured(kills: list[Kill], m: int) -> Run:
    """Make one ensemble of m draws undisturbed and one with these kills."""
    projects: list[Project] = []
    try:
        with tempfile.TemporaryDirectory(prefix="cleanlabel-faults-") as scratch:
            for name in ("undisturbed", "disturbed"):
                (Path(scratch).resolve() / name).mkdir()
                projects.append(make_project(Path(scratch).resolve() / name, m))
            alone, struck = projects
            alone_seconds = undisturbed(alone)
            alone.server.kill()
            seconds = disturbed(struck, kills, m)
            return Run(
                undisturbed_seconds=alone_seconds,
                seconds=seconds,
                starts=struck.starts,
                left=struck.processes(),
                draws=struck.server.finished_draws(),
                begun=struck.begun(),
                votes=[np.load(p.root / ENSEMBLE / "votes.npy", allow_pickle=False) for p in projects],
                roots=[json.loads((p.root / ENSEMBLE / "ensemble.json").read_text())["votes_root"] for p in projects],
            )
    finally:
        for project in projects:
            if project.flow and project.flow.poll() is None:
                project.flow.kill()
            project.server.kill()


def show(run: Run, kills: list[Kill], m: int, seed: int) -> None:
    """Print a line per kill, and the seconds."""
    print(f"\n{len(kills)} kills over {m} draws, {WORKERS} workers, batches of {BATCH}, seed {seed}\n")
    print("| # | killed | after s | draws finished | draws in flight | what happened |")
    print("|---|---|---|---|---|---|")
    for number, kill in enumerate(kills, 1):
        happened = "; ".join(kill.outcome) or "the flow went on"
        print(f"| {number} | {kill.victim} | {kill.at:.0f} | {kill.finished} | {kill.lost} | {happened} |")
    lost = sum(kill.lost for kill in kills)
    print(
        f"\nundisturbed {run.undisturbed_seconds:.0f} s; with {len(kills)} kills {run.seconds:.0f} s, "
        f"{run.starts} starts"
    )
    print(f"{run.begun - m} draws were begun more than once by Prefect's count, {lost} were in flight at a kill\n")


def require_whole(run: Run, m: int) -> None:
    """InputError unless each draw is there once, with the undisturbed votes, and no process is left."""
    if run.draws != list(range(m)):
        raise InputError(f"the finished draws are {run.draws}, not each of 0..{m - 1} once")
    if not np.array_equal(*run.votes) or run.roots[0] != run.roots[1] or (run.votes[0] < 0).any():
        raise InputError("the votes are not those of the undisturbed ensemble")
    if run.left:
        raise InputError(f"processes outlived the flow: {'; '.join(run.left)}")


def figures_of(run: Run, kills: list[Kill], m: int, seed: int) -> dict[str, Any]:
    """For the record."""
    return {
        "m": m,
        "workers": WORKERS,
        "batch_of_draws": BATCH,
        "seed": seed,
        "kills": [
            {
                "victim": kill.victim,
                "after_seconds": round(kill.at, 1),
                "finished": kill.finished,
                "in_flight": kill.lost,
                "outcome": kill.outcome or ["the flow went on"],
            }
            for kill in kills
        ],
        "starts": run.starts,
        "draws_in_flight_at_kills": sum(kill.lost for kill in kills),
        "draws_begun_in_vain": run.begun - m,
        "votes_equal": True,
        "seconds": round(run.seconds, 1),
        "undisturbed_seconds": round(run.undisturbed_seconds, 1),
    }


def main() -> None:
    parser = flags("faults", __doc__, "one kill of each kind at the start, in place of 20 on the way to 200 draws")
    parser.add_argument("--seed", type=int, default=0, help="of the kills")
    args = parser.parse_args()
    m, count = (4 * BATCH + 2, 3) if args.quick else (200, 20)  # 21 is the least that the default gate lets begin
    kills = plan_kills(args.seed, count, m)
    run = measured(kills, m)
    show(run, kills, m, args.seed)
    require_whole(run, m)
    print(f"{m} draws, each once; all {run.votes[0].size} votes are those of the undisturbed ensemble")
    record("faults", figures_of(run, kills, m, args.seed), results(args))


if __name__ == "__main__":
    errors.run(main)
