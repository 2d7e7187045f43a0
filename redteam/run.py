"""A whole drill: every target, the ensembles beside, then tables and pictures."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from redteam.drill import Cell, Drill
from redteam.report import Row, name_of, rows_of, summary, write_summary
from redteam.setups import Setup
from redteam.sheet import draw_poisons
from redteam.threat import Backdoor
from sanitize.errors import InputError


@dataclass(frozen=True)
class Found:
    """What a drill came to."""

    name: str
    rows: list[Row]
    cells: list[Cell]
    summary: dict[str, Any]
    files: tuple[Path, ...]


def run_drill(drill: Drill, output: Path, say: Callable[[str], None] = lambda _: None) -> Found:
    """Run or finish the drill; write its JSON, its sheet and the tables over all drills in `output`.

    What was done before is read, target by target and sigma by sigma.
    """
    setups = drill.chosen(say)
    sigmas = len(drill.params.sigma)
    cells: list[Cell] = []
    with tqdm(total=len(setups) * sigmas, unit="victim", desc=drill.params.attack) as bar:

        def tick(name: str, value: float) -> None:
            bar.set_postfix_str(f"{name}: objective {value:.3g}", refresh=False)
            bar.update(0)

        for number, setup in enumerate(setups):
            for cell in drill.run(number, setup, tick):
                cells.append(cell)
                bar.update()
    votes = ensembles(drill, setups)
    return reported(drill, setups, cells, votes, output)


def ensembles(drill: Drill, setups: list[Setup]) -> dict[float, NDArray[np.int64]]:
    """By sigma, the votes of an ensemble on the first clean set for all targets (m, targets); none if not asked for."""
    sigmas = [sigma for sigma in drill.params.sigma if sigma and drill.params.ensemble]
    goals = [setup.goal for setup in setups]
    count = sum(not isinstance(goal, Backdoor) for goal in goals)
    votes = {}
    with tqdm(total=len(sigmas) * drill.params.ensemble, unit="model", desc="ensembles", disable=not sigmas) as bar:
        for sigma in sigmas:
            whole = drill.votes(setups[0], goals, sigma, lambda *_: bar.update() and None)
            votes[sigma] = whole[:, :count] if count else whole
    return votes


def reported(
    drill: Drill, setups: list[Setup], cells: list[Cell], votes: dict[float, NDArray[np.int64]], output: Path
) -> Found:
    """Tables and pictures of what was found."""
    if not cells:
        raise InputError("the drill has no target and shows nothing; raise --targets")
    name, rows = name_of(drill), rows_of(drill, cells, votes)
    content = summary(drill, rows, cells, len(setups[0].clean))
    write_summary(output, name, content)
    picture = output / f"{name}.png"
    draw_poisons(drill, setups, picture)
    files = (output / f"{name}.json", output / "table.md", output / "table.csv", picture)
    return Found(name, rows, cells, content, files)
