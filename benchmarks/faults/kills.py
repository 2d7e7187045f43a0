"""The kills, and the ensemble that is made in spite of them."""

import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tqdm import tqdm

from benchmarks.faults.project import BATCH, Project, until
from cleanlabel.sanitize.errors import InputError

PATIENCE = 600
"""Seconds without a finished draw after which the benchmark gives up."""


@dataclass
class Kill:
    """One kill: when it is due, what is killed, and what happened next."""

    victim: str
    due: int
    """Finished draws."""
    delay: float
    """Seconds after that."""
    finished: int = 0
    lost: int = 0
    at: float = 0.0
    outcome: list[str] = field(default_factory=list)


def undisturbed(project: Project) -> float:
    """Seconds that the command takes without kills."""
    began = time.perf_counter()
    project.start()
    assert project.flow
    if project.flow.wait():
        raise InputError(f"the undisturbed ensemble was not made ({project.said()})")
    return time.perf_counter() - began


def plan_kills(seed: int, count: int, m: int) -> list[Kill]:
    """Victims and moments: after a random number of finished draws and up to two seconds."""
    generator = random.Random(seed)
    due = sorted(generator.randrange(m - BATCH) for _ in range(count))
    victims = [("flow", "worker", "server")[i % 3] for i in range(count)]
    generator.shuffle(victims)
    return [Kill(victim, when, generator.uniform(0, 2)) for victim, when in zip(victims, due, strict=True)]


def disturbed(project: Project, kills: list[Kill], m: int) -> float:
    """Seconds until the ensemble is complete, with these kills on the way; each kill records what happened."""
    generator = random.Random(str([kill.delay for kill in kills]))
    began = time.perf_counter()
    project.start()
    with tqdm(total=m, desc="with kills", unit="model", mininterval=5) as bar:
        last: list[str] = []  # what happened after the kill before
        for kill in kills:
            _go_on(project, lambda kill=kill: len(project.server.finished_draws()) >= kill.due, last, bar)
            time.sleep(kill.delay)
            if kill.victim == "worker":
                _go_on(project, lambda: bool(project.workers()), last, bar)
            kill.at = time.perf_counter() - began
            _strike(project, kill, generator, m)
            last = kill.outcome
        _go_on(project, lambda: project.ended() == 0, last, bar)
        bar.update(m - bar.n)
    return time.perf_counter() - began


def _strike(project: Project, kill: Kill, generator: random.Random, m: int) -> None:
    done = set(project.server.finished_draws())
    kill.finished = len(done)
    open_batches = [batch for i in range(0, m, BATCH) if (batch := {*range(i, min(i + BATCH, m))} - done)]
    in_flight = open_batches[: len(project.workers())]
    kill.lost = sum(map(len, in_flight))  # of all workers: a pool ends with any worker of it
    if kill.victim == "server":
        project.server.kill()
        time.sleep(generator.uniform(0, 3))
        project.server.start()
        return
    if kill.victim == "worker":
        os.kill(generator.choice(project.workers()), signal.SIGKILL)
        return
    assert project.flow
    project.flow.kill()
    project.flow.wait()
    struck = time.perf_counter()
    until(lambda: not project.processes(), "no process outlives its flow", 60)
    kill.outcome.append(f"nothing of it ran {time.perf_counter() - struck:.1f} s later; the command was given again")
    project.start()


def _go_on(project: Project, reached: Callable[[], bool], outcome: list[str], bar: Any) -> None:
    """Wait for it; a flow that ended with an error meanwhile is started again."""
    deadline, before = time.monotonic() + PATIENCE, -1
    while not reached():
        status = project.ended()
        if status == 0:
            raise InputError("the ensemble was complete before the last kill; give another --seed")
        if status is not None:
            until(lambda: not project.processes(), "no process outlives its flow", 60)
            outcome.append(f"the flow said '{project.said()}'; the command was given again")
            project.start()
        done = len(project.server.finished_draws())
        if done > before:
            deadline, before = time.monotonic() + PATIENCE, done
            bar.update(max(0, done - bar.n))
        if time.monotonic() > deadline:
            raise InputError(f"no draw was finished for {PATIENCE} s at {done} draws; see {project.log}")
        time.sleep(0.2)
