"""The registered model: the whole ensemble as an MLflow pyfunc that loads anywhere, without unpickling anything."""

import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from mlflow.entities import LoggedModel, LoggedModelOutput
from numpy.typing import NDArray

import cleanlabel
from cleanlabel import loading
from cleanlabel.flows.artifacts import NETWORKS
from cleanlabel.flows.ensemble.assembly import Assembly
from cleanlabel.flows.ensemble.record import Ensemble, network_file
from cleanlabel.flows.environment import state
from cleanlabel.flows.store.client import TAG, Store, log_directory, read_directory
from cleanlabel.flows.store.registry import SMOOTHED
from cleanlabel.models.influenced import COSTS
from cleanlabel.models.plan import Plan
from cleanlabel.sanitize.denoiser import load_denoiser
from cleanlabel.sanitize.denoiser_files import copy_denoiser
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.files import file_digest, write_json
from cleanlabel.sanitize.imageset import ImageSet
from cleanlabel.sanitize.noise import draw_entropy
from cleanlabel.sanitize.paths import DENOISER
from cleanlabel.sanitize.sanitizer import as_pixels, sanitize

LIBRARIES = (
    *("diffusers", "huggingface-hub", "mlflow", "mpmath", "numpy", "pandas", "pillow", "pydantic", "ruamel.yaml"),
    *("safetensors", "scikit-learn", "scipy", "torch", "torchvision", "tqdm"),
)
"""The distributions that the code in a registered version imports: its requirements."""
LEFT_OUT = ("flows", "redteam", "__pycache__")
"""The parts of the package that a registered version does not contain."""


def package(store: Store, ensemble: Ensemble, assembly: Assembly, raw: ImageSet) -> None:
    """Turn the networks at the ensemble's run into a pyfunc, `ensemble/MLmodel`, with the code that loads it.

    MLflow's Models view shows it as a logged model of the run, which refers to the networks at the run. Nothing is
    packaged unless all networks are kept. InputError names a run whose network is not the one it recorded.
    """
    if not all(f"{TAG}weights_sha256" in run.data.tags for run in assembly.runs.values()):
        return
    from mlflow.models import Model  # imported late: these take seconds
    from mlflow.pyfunc import save_model

    from cleanlabel.models.smoothed import DESCRIPTION, EXTRACTOR

    (state() / "packages").mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=state() / "packages") as scratch:
        data = Path(scratch) / "networks"  # added to the networks already at the run
        data.mkdir()
        (Path(scratch) / "kept").mkdir()
        networks = read_directory(store, ensemble.run_id, NETWORKS, Path(scratch) / "kept")
        digests = {}
        for draw, run in sorted(assembly.runs.items()):
            path = networks / network_file(draw)
            digests[str(draw)] = file_digest(path) if path.is_file() else ""
            if digests[str(draw)] != run.data.tags[f"{TAG}weights_sha256"]:
                raise InputError(f"the network of run {run.info.run_id} (draw {draw}) does not match its recorded hash")
        write_json(
            data / DESCRIPTION,
            {
                "plan": ensemble.plan.as_dict(),
                "attempts_before": ensemble.attempts_before,
                "m": ensemble.m,
                "classes": list(raw.classes),
                "image_shape": list(raw.image_shape),
                "weights": digests,
                **({"labels": raw.labels.tolist()} if ensemble.plan.bounded_influence else {}),
            },
        )
        if ensemble.plan.recipe["mode"] == "transfer":
            shutil.copy(ensemble.plan.recipe["initial_weights"], data / EXTRACTOR)
        if ensemble.plan.test_sigma and ensemble.plan.denoiser_digest:
            copy_denoiser(DENOISER, data / "denoiser")
        shutil.copytree(
            Path(cleanlabel.__file__).parent, Path(scratch) / "cleanlabel", ignore=shutil.ignore_patterns(*LEFT_OUT)
        )
        loader = _loader(Path(scratch))
        logged = _logged_model(store, ensemble.run_id)
        save_model(
            Path(scratch) / "ensemble",
            loader_module=loader.stem,
            data_path=str(data),
            code_paths=[str(Path(scratch) / "cleanlabel"), str(loader)],
            mlflow_model=Model(run_id=ensemble.run_id, model_id=logged.model_id),
            # without a build's local version suffix (+cpu), which an index may not have
            pip_requirements=[f"{name}=={version(name).partition('+')[0]}" for name in LIBRARIES],
            signature=_signature(raw, counts=ensemble.plan.bounded_influence),
            input_example=_example(ensemble.plan, raw),
        )
        log_directory(store, ensemble.run_id, Path(scratch) / "ensemble", "ensemble")
        write_json(
            Path(scratch) / "ensemble" / "data" / data.name / loading.ELSEWHERE,
            {"networks": f"runs:/{ensemble.run_id}/{NETWORKS}"},
        )
        store.client.log_model_artifacts(logged.model_id, str(Path(scratch) / "ensemble"))
    store.client.finalize_logged_model(logged.model_id, "READY")


def _loader(scratch: Path) -> Path:
    """A copy of `cleanlabel.loading` beside the package's. Its name is of its own content and of the package's, so that
    a process that has imported it for another version does not take it for this one's."""
    code = loading.digests_of(scratch / "cleanlabel") | {"loader": file_digest(Path(loading.__file__))}
    return shutil.copy(loading.__file__, scratch / f"cleanlabel_loader_{loading.root_of(code)[:12]}.py")


def _logged_model(store: Store, run_id: str) -> LoggedModel:
    """The run's logged model: the one already begun, or a new one."""
    for found in store.client.search_logged_models([store.experiment_id], f"source_run_id = '{run_id}'"):
        return found
    params = store.client.get_run(run_id).data.params
    made = store.client.create_logged_model(store.experiment_id, SMOOTHED, run_id, params=params)
    store.client.log_outputs(run_id, [LoggedModelOutput(made.model_id, 0)])
    return made


def _example(plan: Plan, raw: ImageSet) -> NDArray[np.uint8]:
    """One sanitized image, uint8 (1, *shape); a raw one must not be copied. Its noise is new and used only here."""
    if not plan.sigma:
        return np.full((1, *_shape(raw)), 128, np.uint8)
    denoiser = load_denoiser(DENOISER) if plan.denoiser_digest else None
    made = sanitize(raw.take(np.zeros(1, dtype=np.int64)), plan.sigma, denoiser, draw_entropy("os").value)
    return as_pixels(made).reshape(1, *_shape(raw))


def _shape(raw: ImageSet) -> tuple[int, ...]:
    return raw.image_shape if raw.channel_axis else raw.image_shape[:2]


def _signature(raw: ImageSet, *, counts: bool) -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema, TensorSpec
    from mlflow.types.schema import Array

    signature = ModelSignature(
        inputs=Schema([TensorSpec(np.dtype(np.uint8), (-1, *_shape(raw)))]),
        outputs=Schema(
            [
                ColSpec(DataType.long, "label"),
                ColSpec(DataType.string, "class"),
                ColSpec(DataType.double, "radius"),
                ColSpec(Array(DataType.long), "votes"),
                *(ColSpec(DataType.long, way) for way in (COSTS if counts else ())),
            ]
        ),
    )
    # As for a signature from type hints: MLflow shows it, passes the input on, and leaves checking to the model.
    # Otherwise its server first casts JSON to uint8 (0.9 becomes 0), which the model cannot detect.
    signature._is_signature_from_type_hint = True
    return signature
