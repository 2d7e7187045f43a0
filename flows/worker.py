"""What a worker process does: make draws of a planned ensemble and record each as a child run."""

import os
from functools import cache

import numpy as np
import torch

from flows.ensemble import Ensemble, read_ensemble, recall_entropy
from flows.environment import STATE
from flows.store import Store, connect, create_run, finish, log_files, log_metrics
from models.draw import make_draw
from models.params import TrainParams
from models.plan import Plan, code_digest
from models.votes import votes_hash, votes_to_bytes
from models.weights import save_weights
from sanitize.denoiser import Denoiser, load_denoiser
from sanitize.errors import InputError
from sanitize.imageset import ImageSet, load
from sanitize.paths import DENOISER, SETS

Inputs = tuple[ImageSet, ImageSet, Denoiser | None]
"""The raw set, the test set and the denoiser, if there is one."""


def train_batch(run_id: str, draws: list[int]) -> int:
    """Make these draws of the ensemble whose parent run is `run_id`; how many were made."""
    store = connect()
    ensemble = read_ensemble(store, store.client.get_run(run_id))
    inputs = prepare(ensemble.plan)
    for draw in draws:
        train_one(store, ensemble, draw, inputs)
    return len(draws)


def prepare(plan: Plan) -> Inputs:
    """What every draw of the plan needs, and as many threads as every draw had.

    InputError unless the data, the denoiser and the code here are the ones the plan names.
    """
    torch.set_num_threads(int(os.environ.get("CLEANLABEL_THREADS", "1")))
    raw, test, denoiser = _inputs(denoise=plan.denoiser_digest is not None)
    for name, found, planned in (
        ("raw set", raw.digest, plan.raw_digest),
        ("test set", test.digest, plan.test_digest),
        ("denoiser", denoiser.digest if denoiser else None, plan.denoiser_digest),
        ("code", code_digest(), plan.code_digest),
    ):
        if found != planned:
            raise InputError(f"the {name} changed after the ensemble was planned; restore it, or plan anew")
    return raw, test, denoiser


@cache
def _inputs(*, denoise: bool) -> Inputs:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return load(SETS["raw"]), load(SETS["test"]), load_denoiser(DENOISER, device) if denoise else None


def train_one(store: Store, ensemble: Ensemble, draw: int, inputs: Inputs) -> None:
    """Make one draw and record it as a child run: params, metrics, votes, weights, hashes. Finished comes last."""
    plan = ensemble.plan
    raw, test, denoiser = inputs
    recipe = TrainParams.model_validate(plan.recipe)
    entropy = recall_entropy(ensemble)
    run_id = create_run(
        store,
        f"draw {draw}",
        {"kind": "draw", "draw": str(draw), "plan": plan.digest},
        {"draw": draw, "sigma": plan.sigma, "recipe_digest": plan.recipe_digest, "m": plan.m},
        parent_id=ensemble.run_id,
    )
    try:
        made = make_draw(raw, test, plan.sigma, denoiser, recipe, entropy.value, draw)
        weights = STATE / "weights" / f"{run_id}.safetensors"
        save_weights(made.model, weights, recipe.architecture, raw.image_shape, plan.classes, recipe.width)
        log_files(
            store,
            run_id,
            {"votes.npy": votes_to_bytes(made.votes), "weights.safetensors": weights.read_bytes()},
        )
        weights.unlink()
        log_metrics(
            store,
            run_id,
            {
                "test_accuracy": float(np.mean(made.votes == test.labels)),
                "sanitize_seconds": made.sanitize_seconds,
                "train_seconds": made.train_seconds,
            },
            {"votes_sha256": votes_hash(made.votes)},
        )
    except BaseException:
        finish(store, run_id, "FAILED")
        raise
    finish(store, run_id)
