"""A whole drill: every target, the ensembles on the clean set, then tables and pictures."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from cleanlabel.models.certificate import certify
from cleanlabel.models.plan import noise_distance_of
from cleanlabel.models.votes import count_votes
from cleanlabel.redteam.drill.covered import coverages, draws_at
from cleanlabel.redteam.drill.drill import Cell, Drill
from cleanlabel.redteam.drill.report import name_of, summary, write_summary
from cleanlabel.redteam.drill.rows import Row, rows_of
from cleanlabel.redteam.drill.sheet import draw_poisons
from cleanlabel.redteam.threat.attacker import Backdoor
from cleanlabel.redteam.threat.setups import Setup
from cleanlabel.sanitize.errors import InputError


@dataclass(frozen=True)
class Found:
    """The results of a drill and the files that hold them."""

    name: str
    rows: list[Row]
    cells: list[Cell]
    summary: dict[str, Any]
    files: tuple[Path, ...]


def run_drill(drill: Drill, output: Path, say: Callable[[str], None] = lambda _: None) -> Found:
    """Run or finish the drill; write its JSON, its sheet and the tables over all drills in `output`.

    Results of earlier runs are read, target by target and sigma by sigma.
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
    return reported(drill, setups, cells, ensembles(drill, setups), output)


def ensembles(drill: Drill, setups: list[Setup]) -> dict[float, NDArray[np.float64]]:
    """By sigma, the radii that an ensemble on the first clean set certifies; empty if the params ask for none.

    Of the targets, or of all test images where the attack is a backdoor; A radius is 0 where the ensemble abstains or
    is wrong.
    """
    p = drill.params
    sigmas = [sigma for sigma in p.sigma if sigma and p.ensemble]
    goals = [setup.goal for setup in setups if not isinstance(setup.goal, Backdoor)]
    truth = np.array([goal.label for goal in goals]) if goals else drill.test.labels
    images = np.stack([goal.image for goal in goals]) if goals else drill.test.images
    radii = {}
    with tqdm(total=len(sigmas) * p.ensemble, unit="model", desc="ensembles", disable=not sigmas) as bar:
        for sigma in sigmas:
            votes = {}
            for draw in range(p.ensemble):
                votes[draw] = drill.vote(setups[0].clean, images, sigma, draw)
                bar.update()
            counts = count_votes(votes, p.ensemble, len(truth), len(drill.test.classes))
            distance = noise_distance_of(len(setups[0].clean), drill.test.image_shape, sigma)
            label, radius = certify(counts, p.ensemble, sigma, p.alpha, distance=distance)
            radii[sigma] = np.where(label == truth, radius, 0.0)
    return radii


def reported(
    drill: Drill, setups: list[Setup], cells: list[Cell], radii: dict[float, NDArray[np.float64]], output: Path
) -> Found:
    """Write tables and pictures; with a bounded-influence head the certificates are compared with the attack."""
    if not cells:
        raise InputError("the drill has no target; raise --targets")
    draws = len(setups) * sum(draws_at(drill, sigma) for sigma in drill.params.sigma)
    with tqdm(total=draws, unit="draw", desc="certificates", disable=not drill.victim.summed) as bar:
        coverage = coverages(drill, setups, bar.update) if drill.victim.summed else []
    name, rows = name_of(drill), rows_of(drill, cells, radii, coverage)
    content = summary(drill, rows, cells, len(setups[0].clean), coverage)
    write_summary(output, name, content)
    picture = output / f"{name}.png"
    draw_poisons(drill, setups, picture)
    files = (output / f"{name}.json", output / "table.md", output / "table.csv", picture)
    return Found(name, rows, cells, content, files)
