"""Flow `red-team`: run a drill, target by target, and record its results as runs in MLflow.

    python -m flows.attack                     # the drill of redteam/params.yaml
    python -m flows.attack --attack NAME ...   # the drill of the flags alone, which are those of `python -m redteam`

Poisons and cells are stored as soon as they are made. After a kill at any point, the same command makes only the
missing ones. A drill that was logged is not logged again.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from prefect import flow
from prefect.artifacts import create_markdown_artifact, create_progress_artifact, update_progress_artifact
from prefect.states import State
from prefect.utilities.annotations import quote
from tqdm import tqdm

from cleanlabel.flows.orchestration.engine import gpu_slot, resources
from cleanlabel.flows.orchestration.log import logger, note
from cleanlabel.flows.orchestration.retries import patient_task, retried
from cleanlabel.flows.orchestration.server import prefect_server
from cleanlabel.flows.store.client import connect
from cleanlabel.flows.store.drills import record, write_tracked
from cleanlabel.flows.store.errors import translate_store_errors
from cleanlabel.redteam.__main__ import params_from, parser
from cleanlabel.redteam.drill.drill import Cell, Drill, Tick
from cleanlabel.redteam.drill.params import PARAMS, DrillParams
from cleanlabel.redteam.drill.prepare import prepared
from cleanlabel.redteam.drill.report import drill_lines
from cleanlabel.redteam.drill.run import Found, ensembles, reported
from cleanlabel.redteam.threat.setups import Setup
from cleanlabel.sanitize import errors
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.params import read_params

PROG = "python -m flows.attack"
FULL_SECONDS = [30, 120]
"""How long to wait for memory on a GPU that others have filled. Other failures are not retried: they would recur."""
TRACKED = "drill"
"""Folder below the output with the files that DVC tracks, for the drill of redteam/params.yaml."""


def _memory_ran_out(_task: object, _run: object, state: State[Any]) -> bool:
    return isinstance(state.result(raise_on_failure=False), torch.OutOfMemoryError)


on_device = retried(FULL_SECONDS, _memory_ran_out)
"""A task that computes. It is retried while the device is full, and reads finished parts from disk."""


@on_device(name="prepare")
def prepare(params: DrillParams, device: str) -> tuple[Drill, list[Setup]]:
    """The checked sets, victim and attacker, and the targets that the victim classifies correctly without attack."""
    with gpu_slot("processes", torch.device(device)):
        drill = prepared(params, device)
        return drill, drill.chosen(_say)


@on_device(name="attack", task_run_name="attack {name}")
def attack(name: str, number: int, drill: Drill, setup: Setup, tick: Tick) -> list[Cell]:
    """The cells of one target, one per sigma. Poisons and cells that exist on disk are read."""
    with gpu_slot("processes", drill.victim.device):
        cells = list(drill.run(number, setup, tick))
    logger().info("%s: %s", name, ", ".join(f"sigma {cell.sigma:g} success {cell.success:g}" for cell in cells))
    return cells


@on_device(name="report")
def report(drill: Drill, setups: list[Setup], cells: list[Cell], output: Path, *, tracked: bool) -> Found:
    """Make the ensembles for comparison if requested, then tables and pictures."""
    with gpu_slot("processes", drill.victim.device):
        found = reported(drill, setups, cells, ensembles(drill, setups), output)
    if tracked:
        write_tracked(found, output / TRACKED)
    return found


@patient_task(name="record")
def record_in_mlflow(drill: Drill, found: Found) -> tuple[str, bool]:
    """The drill's run in MLflow, and whether it is new."""
    with translate_store_errors():
        return record(connect(), drill, found)


@flow(name="red-team", flow_run_name="{params.attack}: {params.targets} targets on {params.data}", persist_result=False)
def red_team(params: DrillParams, output: Path, device: str, *, tracked: bool) -> str:
    """Run or finish a drill, log it, and report its results.

    Args:
        params: The section `drill` of redteam/params.yaml.
        output: The folder for tables and pictures.
        device: The device that runs the networks.
        tracked: Whether this is the drill that DVC tracks.
    """
    with resources("processes"):
        drill, setups = prepare(params, device)
        progress = create_progress_artifact(0, key="attacked-targets", description=f"of {len(setups)}")
        cells: list[Cell] = []
        with tqdm(total=len(setups) * len(params.sigma), unit="victim", desc=params.attack) as bar:
            for number, setup in enumerate(setups):
                # quoted: Prefect would look for futures in every array and id of the drill
                cells += attack(setup.name, number, quote(drill), quote(setup), quote(_ticking(bar)))
                bar.update(len(params.sigma))
                words = f"{number + 1} of {len(setups)} targets"
                update_progress_artifact(progress, 100 * (number + 1) / len(setups), words)
        found = report(quote(drill), quote(setups), quote(cells), output, tracked=tracked)
    run_id, new = record_in_mlflow(quote(drill), quote(found))
    note("drill logged" if new else "drill was logged before", drill=drill.state.name, run=run_id)
    table = "\n".join(drill_lines(found.summary))
    create_markdown_artifact(table, key="red-team", description=found.name)
    return "\n".join(
        [
            table,
            "",
            f"{output}: table.md, table.csv, {found.name}.json and {found.name}.png; {drill.state}: the poisons",
            f"MLflow: run {run_id}, {'with one run a sigma under it' if new else 'logged before'}",
        ]
    )


def _ticking(bar: tqdm) -> Tick:
    def tick(name: str, value: float) -> None:
        bar.set_postfix_str(f"{name}: objective {value:.3g}", refresh=False)
        bar.update(0)

    return tick


def _say(words: str) -> None:
    logger().info("%s", words)
    print(words, flush=True)


def asked(args: argparse.Namespace, defaults: argparse.Namespace) -> DrillParams:
    """The drill of the flags, or without any that of redteam/params.yaml. InputError if flags lack their attack."""
    if args.attack is not None:
        return params_from(args)
    machine = ("output", "device")
    changed = [name for name, value in vars(args).items() if name not in machine and value != vars(defaults)[name]]
    if changed:
        raise InputError(
            f"--{changed[0].replace('_', '-')} is given without --attack; name the attack, or change {PARAMS} instead"
        )
    return read_params("drill", DrillParams, PARAMS)


def flags_of_drill() -> argparse.ArgumentParser:
    """The command's flags."""
    flags = parser(PROG, needs_attack=False)
    flags.epilog = f"Without --attack: the drill of {PARAMS}."
    return flags


def main() -> None:
    flags = flags_of_drill()
    args = flags.parse_args()
    params = asked(args, flags.parse_args([]))
    with translate_store_errors():
        connect()  # a store that is away says so now, not after hours of crafting
    with prefect_server():
        state = red_team(params, args.output, args.device, tracked=args.attack is None, return_state=True)
    if not state.is_completed():
        state.result()  # raises what stopped it
    print(state.result())


if __name__ == "__main__":
    errors.run(main)
