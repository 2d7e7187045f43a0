"""The registered model: the whole ensemble as an MLflow pyfunc that loads without unpickling anything."""

import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from cleanlabel.flows.artifacts import NETWORKS
from cleanlabel.flows.ensemble.assembly import Assembly
from cleanlabel.flows.ensemble.record import Ensemble, network_file
from cleanlabel.flows.environment import state
from cleanlabel.flows.store.client import TAG, Store, log_directory, read_directory
from cleanlabel.models.influenced import COSTS
from cleanlabel.sanitize.denoiser_files import copy_denoiser
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.files import file_digest, write_json
from cleanlabel.sanitize.imageset import ImageSet
from cleanlabel.sanitize.paths import DENOISER

LIBRARIES = ("diffusers", "mlflow", "numpy", "pandas", "pydantic", "safetensors", "scipy", "torch")


def package(store: Store, ensemble: Ensemble, assembly: Assembly, raw: ImageSet) -> None:
    """Make of the networks at the ensemble's run a pyfunc, `ensemble/MLmodel`; the loader is `flows.served`.

    Only if all are kept. InputError names a run whose network is not the one it recorded.
    """
    if not all(f"{TAG}weights_sha256" in run.data.tags for run in assembly.runs.values()):
        return
    from mlflow.pyfunc import save_model  # imported late: it takes seconds

    from cleanlabel.models.smoothed import DESCRIPTION, EXTRACTOR

    (state() / "packages").mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=state() / "packages") as scratch:
        data = Path(scratch) / "networks"  # laid over the ones that are there
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
                "attempt": ensemble.attempt,
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
        save_model(
            Path(scratch) / "ensemble",
            loader_module="flows.served",
            data_path=str(data),
            pip_requirements=[f"{name}=={version(name)}" for name in LIBRARIES],
            signature=_signature(raw, counts=ensemble.plan.bounded_influence),
            input_example=np.full((1, *_shape(raw)), 128, np.uint8),  # grey: the raw images are not ours to copy
        )
        log_directory(store, ensemble.run_id, Path(scratch) / "ensemble", "ensemble")


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
    # As for a signature from type hints: MLflow shows it, hands on what it is given, and leaves checking to the model.
    # Otherwise its server casts JSON to uint8 first (0.9 becomes 0), and the model cannot know.
    signature._is_signature_from_type_hint = True
    return signature
