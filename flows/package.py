"""The registered model: the whole ensemble as an MLflow pyfunc that loads without unpickling anything."""

import tempfile
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from flows.assembly import Assembly
from flows.ensemble import Ensemble
from flows.environment import STATE
from flows.store import TAG, Store, read_file
from sanitize.denoiser_files import copy_denoiser
from sanitize.errors import InputError
from sanitize.files import file_digest, write_json
from sanitize.imageset import ImageSet
from sanitize.paths import DENOISER

LIBRARIES = ("diffusers", "mlflow", "numpy", "pandas", "pydantic", "safetensors", "scipy", "torch")


def package(store: Store, ensemble: Ensemble, assembly: Assembly, raw: ImageSet) -> None:
    """Attach the ensemble's networks to its run as a pyfunc, `ensemble/MLmodel`; the loader is `models.smoothed`.

    InputError names a run whose weights are not the ones it recorded.
    """
    from mlflow.pyfunc import save_model  # imported late: it takes seconds

    (STATE / "packages").mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=STATE / "packages") as scratch:
        data = Path(scratch) / "networks"
        data.mkdir()
        digests = {}
        for draw, run in sorted(assembly.runs.items()):
            path = data / f"draw-{draw:05d}.safetensors"
            path.write_bytes(read_file(store, run, "weights.safetensors"))
            digests[str(draw)] = file_digest(path)
            if digests[str(draw)] != run.data.tags.get(f"{TAG}weights_sha256"):
                raise InputError(f"the weights of run {run.info.run_id} (draw {draw}) do not match their recorded hash")
        write_json(
            data / "smoothed.json",
            {
                "plan": ensemble.plan.as_dict(),
                "attempt": ensemble.attempt,
                "classes": list(raw.classes),
                "image_shape": list(raw.image_shape),
                "weights": digests,
            },
        )
        if ensemble.plan.test_sigma and ensemble.plan.denoiser_digest:
            copy_denoiser(DENOISER, data / "denoiser")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # it asks for an example: the raw images are not ours to copy
            save_model(
                Path(scratch) / "ensemble",
                loader_module="models.smoothed",
                data_path=str(data),
                pip_requirements=[f"{name}=={version(name)}" for name in LIBRARIES],
                signature=_signature(raw),
            )
        store.client.log_artifacts(ensemble.run_id, f"{scratch}/ensemble", "ensemble")


def _signature(raw: ImageSet) -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema, TensorSpec
    from mlflow.types.schema import Array

    shape = raw.image_shape if raw.channel_axis else raw.image_shape[:2]
    return ModelSignature(
        inputs=Schema([TensorSpec(np.dtype(np.uint8), (-1, *shape))]),
        outputs=Schema(
            [
                ColSpec(DataType.long, "label"),
                ColSpec(DataType.string, "class"),
                ColSpec(DataType.double, "radius"),
                ColSpec(Array(DataType.long), "votes"),
            ]
        ),
    )
