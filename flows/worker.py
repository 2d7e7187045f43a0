"""What a worker process does: make draws of a planned ensemble and record each as a child run."""

import os
import platform
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from flows.ensemble import Ensemble, draw_params, draw_tags, read_ensemble, recall_entropy
from flows.environment import STATE
from flows.store import Store, connect, create_run, finish, log_files, log_metrics
from models.draw import Smoothed, make_draw
from models.params import TrainParams
from models.plan import Plan, code_digest
from models.training import architecture_of
from models.votes import votes_hash, votes_to_bytes
from models.weights import read_weights, save_weights
from sanitize.denoiser import Denoiser, load_denoiser
from sanitize.errors import InputError
from sanitize.files import file_digest
from sanitize.imageset import ImageSet, load
from sanitize.noise import Entropy
from sanitize.paths import DENOISER, SETS


@dataclass(frozen=True, eq=False)
class Inputs:
    """What every draw of a plan is made from; denoiser and initial weights where the plan has them."""

    plan: Plan
    raw: ImageSet
    test: ImageSet
    denoiser: Denoiser | None
    initial: dict[str, Tensor] | None

    def make(self, entropy: Entropy, draw: int) -> Smoothed:
        """One draw of the plan."""
        plan = self.plan
        return make_draw(
            self.raw,
            self.test,
            plan.sigma,
            self.denoiser,
            TrainParams.model_validate(plan.recipe),
            entropy.value,
            draw,
            test_sigma=plan.test_sigma,
            initial=self.initial,
        )


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

    InputError unless the data, the denoiser, the initial weights and the code here are the ones the plan names.
    """
    torch.set_num_threads(int(os.environ.get("CLEANLABEL_THREADS", "1")))
    raw, test, denoiser = _inputs(denoise=plan.denoiser_digest is not None)
    weights = plan.recipe["initial_weights"]
    for name, found, planned in (
        ("raw set", raw.digest, plan.raw_digest),
        ("test set", test.digest, plan.test_digest),
        ("denoiser", denoiser.digest if denoiser else None, plan.denoiser_digest),
        ("file of initial weights", file_digest(Path(weights)) if weights else None, plan.initial_digest),
        ("code", code_digest(), plan.code_digest),
    ):
        if found != planned:
            raise InputError(f"the {name} changed after the ensemble was planned; restore it, or plan anew")
    return Inputs(plan, raw, test, denoiser, read_weights(Path(weights))[1] if weights else None)


@cache
def _inputs(*, denoise: bool) -> tuple[ImageSet, ImageSet, Denoiser | None]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return load(SETS["raw"]), load(SETS["test"]), load_denoiser(DENOISER, device) if denoise else None


def environment() -> str:
    """What a draw's bits depend on beyond its seeds: two draws agree in every vote where this is the same."""
    cpuinfo = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    cpu = next((line.partition(":")[2].strip() for line in cpuinfo.splitlines() if "model name" in line), "")
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else cpu or platform.processor()
    libraries = " ".join(f"{name} {version(name)}" for name in ("torch", "numpy", "scipy", "diffusers"))
    return f"{device}, {torch.get_num_threads()} thread(s), {libraries}"


def train_one(store: Store, ensemble: Ensemble, draw: int, inputs: Inputs) -> None:
    """Make one draw and record it as a child run: params, metrics, votes, weights, hashes. Finished comes last."""
    plan = ensemble.plan
    entropy = recall_entropy(ensemble)
    run_id = create_run(
        store, f"draw {draw}", draw_tags(plan, draw), draw_params(plan, draw), parent_id=ensemble.run_id
    )
    try:
        made = inputs.make(entropy, draw)
        weights = STATE / "weights" / f"{run_id}.safetensors"
        recipe = TrainParams.model_validate(plan.recipe)
        save_weights(made.model, weights, architecture_of(recipe, inputs.raw.image_shape, plan.classes))
        log_files(
            store,
            run_id,
            {"votes.npy": votes_to_bytes(made.votes), "weights.safetensors": weights.read_bytes()},
        )
        log_metrics(
            store,
            run_id,
            {
                "test_accuracy": float(np.mean(made.votes == inputs.test.labels)),
                "sanitize_seconds": made.sanitize_seconds,
                "train_seconds": made.train_seconds,
            },
            {
                "votes_sha256": votes_hash(made.votes),
                "weights_sha256": file_digest(weights),
                "seal": made.seal,
                "copy_sha256": made.copy_sha256,
                "environment": environment(),
            },
        )
        weights.unlink()
    except BaseException:
        finish(store, run_id, "FAILED")
        raise
    finish(store, run_id)
