"""The work of a worker process: make a batch of a planned ensemble's draws and record each as a child run."""

import os
import platform
import tempfile
from dataclasses import replace
from functools import cache, lru_cache
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from mlflow.utils.time import get_current_time_millis
from numpy.typing import NDArray

from cleanlabel.flows.artifacts import NETWORKS
from cleanlabel.flows.ensemble.entropy import recall_entropy
from cleanlabel.flows.ensemble.instrument import recall_instrument
from cleanlabel.flows.ensemble.record import Ensemble, draw_params, draw_tags, network_file, read_ensemble
from cleanlabel.flows.environment import Engine, scratch, state
from cleanlabel.flows.orchestration.engine import defer_sigterm, gpu_slot, own_gpu
from cleanlabel.flows.orchestration.log import note
from cleanlabel.flows.store.client import Store, connect, create_run, finish, log_directory
from cleanlabel.flows.store.errors import translate_store_errors
from cleanlabel.models.draw import Smoothed, make_batch
from cleanlabel.models.draw_sources import code_digest
from cleanlabel.models.instrument import Features, Instrument, save_features
from cleanlabel.models.materials import Materials
from cleanlabel.models.params import TrainParams
from cleanlabel.models.plan import Plan
from cleanlabel.models.start import Start, start_of
from cleanlabel.models.votes import votes_hash, votes_to_bytes
from cleanlabel.models.weights import read_trained_on, save_weights, trained_on
from cleanlabel.sanitize.denoiser import Denoiser, load_denoiser
from cleanlabel.sanitize.device import default_device, is_accelerator
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.files import file_digest
from cleanlabel.sanitize.imageset import ImageSet, load
from cleanlabel.sanitize.paths import DENOISER, SETS

Keep = int | str
"""Which draws' networks are kept: "all", "none", or a number n for draws 0..n-1."""


def train_batch(run_id: str, batch: range, wanted: list[int], keep: Keep, engine: Engine) -> int:
    """Make a batch of the ensemble whose parent run is `run_id`, and record its `wanted` draws. Returns their number.

    The whole batch is made even if only some draws are wanted, so a draw's bits never depend on a restart. A draw is
    recorded only after it is made. A worker that dies leaves nothing of a draw, the whole draw, or an unfinished run,
    which does not count.
    """
    with defer_sigterm(), translate_store_errors():
        store = connect()
        ensemble = read_ensemble(store, store.client.get_run(run_id))
        materials = prepare(ensemble.plan, instrument_of(store, ensemble))
        entropy = recall_entropy(ensemble).value
        draws = batch if materials.stacked(len(batch)) else wanted
        with gpu_slot(engine, materials.device):
            began = get_current_time_millis()
            made = [one for one in make_batch(materials, entropy, draws) if one.draw in wanted]
        digests = _keep_networks(store, ensemble, materials, [one for one in made if kept(one.draw, keep)])
        for one in made:
            run = record(store, ensemble, materials, one, digests.get(one.draw), began)
            seconds = round(one.sanitize_seconds + one.train_seconds, 3)
            note("draw recorded", ensemble=ensemble.plan.digest[:12], draw=one.draw, run=run, seconds=seconds)
        return len(made)


def kept(draw: int, keep: Keep) -> bool:
    """Whether the draw's network is kept."""
    return keep == "all" or (isinstance(keep, int) and draw < keep)


def instrument_of(store: Store, ensemble: Ensemble) -> Instrument | None:
    """The ensemble's instrument, from this machine or its run. None if its head needs none."""
    digest = ensemble.plan.instrument_digest
    return recall_instrument(digest, store, ensemble.run_id) if digest else None


def prepare(plan: Plan, instrument: Instrument | None = None) -> Materials:
    """The materials that all draws of the plan share. Also sets the number of threads that every draw uses.

    instrument: the plan's instrument (default: the one stored on this machine).

    InputError unless the data, the denoiser, the initial weights and the code are those that the plan names.
    """
    torch.set_num_threads(int(os.environ.get("CLEANLABEL_THREADS", "1")))
    raw, test, denoiser = _inputs(plan.raw_digest, plan.test_digest, plan.denoiser_digest)
    weights, twin = plan.recipe["initial_weights"], plan.recipe.get("twin")
    _require_planned(
        ("denoiser's int8 network", denoiser.int8.as_dict() if denoiser and denoiser.int8 else None, plan.int8),
        ("file of initial weights", file_digest(Path(weights)) if weights else None, plan.initial_digest),
        ("twin of the extractor", file_digest(Path(twin)) if twin else None, plan.twin_digest),
        ("code", code_digest(), plan.code_digest),
    )
    recipe = TrainParams.model_validate(plan.recipe)
    if plan.instrument_digest and not instrument:
        instrument = recall_instrument(plan.instrument_digest)
    return Materials(
        raw,
        test,
        plan.sigma,
        denoiser,
        recipe,
        plan.draws,
        plan.test_sigma,
        replace(_start(recipe.model_dump_json(), plan.initial_digest, plan.twin_digest), instrument=instrument),
        device(),
        plan.partitions,
        scratch(),
    )


@cache
def _start(recipe: str, initial_digest: str | None, twin_digest: str | None) -> Start:
    """What the plan's training starts from, but for its instrument; read once in a process.

    InputError unless an extractor and its twin are the files with these sha256, as they were read.
    """
    start = start_of(TrainParams.model_validate_json(recipe), device())
    for network, digest in ((start.extractor, initial_digest), (start.twin, twin_digest)):
        if network and network.digest != digest:
            raise InputError("an extractor's file changed while it was read; restore it")
    return start


def device() -> torch.device:
    """The device that runs networks in this process: a GPU of its own where there are as many as workers, or the CPU.

    Ray shows each of its workers one GPU.
    """
    return default_device(own_gpu())


@lru_cache(maxsize=1)
def _inputs(
    raw_digest: str, test_digest: str, denoiser_digest: str | None
) -> tuple[ImageSet, ImageSet, Denoiser | None]:
    """The raw set, the test set and the denoiser with these digests, read once in a process. InputError for others."""
    raw, test = load(SETS["raw"]), load(SETS["test"])
    denoiser = load_denoiser(DENOISER, device()) if denoiser_digest is not None else None
    _require_planned(
        ("raw set", raw.digest, raw_digest),
        ("test set", test.digest, test_digest),
        ("denoiser", denoiser.digest if denoiser else None, denoiser_digest),
    )
    return raw, test, denoiser


def _require_planned(*compared: tuple[str, object, object]) -> None:
    """InputError unless found equals planned, for all of these (name, found, planned)."""
    for name, found, planned in compared:
        if found != planned:
            raise InputError(f"the {name} changed after the ensemble was planned; restore it, or plan a new ensemble")


def environment(materials: Materials) -> str:
    """What a draw's bits depend on besides its seeds. A draw repeated in the same environment repeats every vote."""
    fast = materials.fast(materials.sigma)
    if not fast:
        return f"{_machine()}, not denoised"
    rows = f", {fast.batch} rows at once" if is_accelerator(fast.device) else ""  # a CPU has them from the images alone
    return f"{_machine()}, denoised in {fast.words}{rows}"


@cache
def _machine() -> str:
    cpuinfo = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    cpu = next((line.partition(":")[2].strip() for line in cpuinfo.splitlines() if "model name" in line), "")
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else cpu or platform.processor()
    libraries = " ".join(f"{name} {version(name)}" for name in ("torch", "numpy", "scipy", "diffusers"))
    return f"{device}, {torch.get_num_threads()} thread(s), {libraries}"


def record(
    store: Store, ensemble: Ensemble, materials: Materials, made: Smoothed, network: str | None, began: int
) -> str:
    """Record a draw as a child run in few calls: params, metrics, hashes, votes. Returns the run's id.

    The run is marked finished last. network: sha256 of the draw's network, None if it is not kept. began: the start
    of its batch, in milliseconds.
    """
    plan = ensemble.plan
    run_id = create_run(
        store,
        f"draw {made.draw}",
        draw_tags(plan, made.draw)
        | {
            "votes_sha256": votes_hash(made.votes),
            "seal": made.seal,
            "copy_sha256": made.copy_sha256,
            "environment": environment(materials),
        }
        | ({"weights_sha256": network} if network else {}),
        draw_params(plan, made.draw),
        {
            "test_accuracy": float(np.mean(answered(plan, made) == materials.test.labels)),
            "sanitize_seconds": made.sanitize_seconds,
            "train_seconds": made.train_seconds,
        },
        parent_id=ensemble.run_id,
        start_time=began,
        files={"votes.npy": votes_to_bytes(made.votes)},
    )
    finish(store, run_id)
    return run_id


def answered(plan: Plan, made: Smoothed) -> NDArray[np.int64]:
    """A draw's answers: its votes, or the classes of its largest sums."""
    return made.votes.argmax(axis=1) if plan.bounded_influence else made.votes


def _keep_networks(store: Store, ensemble: Ensemble, materials: Materials, made: list[Smoothed]) -> dict[int, str]:
    """Attach these draws' networks or features to the ensemble's run, in the place where the registered model has them.

    Returns the sha256 of each, by draw.
    """
    if not made:
        return {}
    (state() / "networks").mkdir(parents=True, exist_ok=True)
    weights = materials.recipe.initial_weights
    saw = trained_on(materials.raw, read_trained_on(Path(weights)) if weights else None)
    with tempfile.TemporaryDirectory(dir=state() / "networks") as scratch:
        paths = {one.draw: Path(scratch) / network_file(one.draw) for one in made}
        for one in made:
            if isinstance(one.model, Features):
                save_features(one.model, paths[one.draw])
            else:
                save_weights(one.model, paths[one.draw], materials.architecture, saw)
        digests = {draw: file_digest(path) for draw, path in paths.items()}
        log_directory(store, ensemble.run_id, Path(scratch), NETWORKS)
    return digests
