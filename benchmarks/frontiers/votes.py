"""The votes of every block's models, draw by draw, and what they certify; a killed run goes on from its scratch."""

from collections.abc import Callable
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from benchmarks.common.runs import kept
from benchmarks.frontiers.sets import Task
from cleanlabel.models.blocks import block_of
from cleanlabel.models.heads import HeadKind, fit_head_of_some
from cleanlabel.models.params import TrainParams
from cleanlabel.models.stacked import train_stack
from cleanlabel.models.training import as_tensor
from cleanlabel.models.votes import NOBODY
from cleanlabel.sanitize.noise import training_seed

Key = tuple[str, int, int]
"""(model, number of raw images, number of blocks)."""
Ints = NDArray[np.int64]
COPY = "copy"
"""Name of the sanitized copy among a draw's arrays, where models are trained on all copies at the end."""


def block_logits(
    found: Tensor, labels: Ints, blocks: Ints, k: int, asked: Tensor, classes: int, kind: HeadKind, l2: float
) -> NDArray[np.float32]:
    """Logits (k, n_asked, classes) of one head per block, fitted only to the features and labels of that block.

    found (n, d), labels and blocks (n,), asked (n_asked, d). NaN where a block is empty.
    """
    logits = np.full((k, len(asked), classes), np.nan, dtype=np.float32)
    for block in range(k):
        rows = np.flatnonzero(blocks == block)
        if len(rows):
            head = fit_head_of_some(found[rows], torch.from_numpy(labels[rows]), classes, kind, l2)
            logits[block] = head(asked).numpy()
    return logits


def votes_of(logits: NDArray[np.float32]) -> NDArray[np.int8]:
    """The class that each model answers, (..., n); NOBODY where its logits (..., n, K) are not finite."""
    answered = np.isfinite(logits).all(axis=-1)
    return np.where(answered, np.nan_to_num(logits, nan=0).argmax(axis=-1), NOBODY).astype(np.int8)


def ensemble_votes(
    task: Task, sigmas: list[float], ks: list[int], m: int, entropy: bytes, scratch: Path, bar: tqdm
) -> dict[float, dict[Key, NDArray[np.int8]]]:
    """By sigma: votes (m, k, n_test) for every kind of model, size and k. The same m copies serve all of these.

    A draw's standard normals are the same for every sigma: each sigma's certificates hold on their own.
    """
    copier = cache(task.copier)
    body = cache(lambda name, sigma: task.heads[name].noised(sigma))
    clean = {name: head.clean(task.test.images) for name, head in task.heads.items()}
    labels, classes = task.raw.labels, len(task.raw.classes)
    blocks = {k: block_of(task.raw.ids, k) for k in ks}

    def one_draw(sigma: float, draw: int) -> dict[str, NDArray[Any]]:
        copied = copier(sigma)(entropy, draw)
        made = {COPY: copied} if task.recipes else {}
        for name, head in task.heads.items():
            found = body(name, sigma)(copied)
            for n, k in product(task.sizes, ks):
                own = blocks[k][:n]
                logits = block_logits(found[:n], labels[:n], own, k, clean[name], classes, head.kind, head.l2)
                made[f"{name}/{n}/{k}"] = votes_of(logits)
        return made

    folder = {sigma: scratch / f"votes-{sigma:g}" for sigma in sigmas}
    rows: dict[float, list[dict[str, NDArray[Any]]]] = {sigma: [] for sigma in sigmas}
    for draw, sigma in product(range(m), sigmas):
        rows[sigma].append(kept(folder[sigma] / f"{draw:05d}.npz", partial(one_draw, sigma, draw)))
        bar.update()
    seeds = [training_seed(entropy, draw) for draw in range(m)]
    votes = {}
    for sigma, of in rows.items():
        votes[sigma] = {key_of(name): np.stack([row[name] for row in of]) for name in of[0] if name != COPY}
        for name, k in product(task.recipes, ks):
            copies = [row[COPY] for row in of]
            learn = partial(trained_logits, task, copies, blocks[k], k, task.recipes[name], seeds)
            votes[sigma][name, len(task.raw), k] = kept(folder[sigma] / f"{name}-{k}.npz", partial(_votes, learn))[
                "votes"
            ]
    return votes


def _votes(learn: Callable[[], NDArray[np.float32]]) -> dict[str, NDArray[Any]]:
    return {"votes": votes_of(learn())}


def key_of(name: str) -> Key:
    """The key that an array's name in a draw's file stands for."""
    head, n, k = name.rsplit("/", 2)
    return head, int(n), int(k)


def trained_logits(
    task: Task, copies: list[NDArray[Any]], blocks: Ints, k: int, recipe: TrainParams, seeds: list[int]
) -> NDArray[np.float32]:
    """Logits (len(copies), k, n_test, classes) of networks trained on each copy's block; a block's all at once."""
    asked = as_tensor(task.test.images)
    logits = np.full((len(copies), k, len(task.test), len(task.raw.classes)), np.nan, dtype=np.float32)
    for block in range(k):
        rows = np.flatnonzero(blocks == block)
        if len(rows):
            own = [copy[rows] for copy in copies]
            models = train_stack(own, task.raw.labels[rows], len(task.raw.classes), recipe, seeds)
            with torch.inference_mode():
                logits[:, block] = np.stack([model(asked).numpy() for model in models])
    return logits
