"""Stage `train`: an ordinary classifier on the sanitized copy. Defended, not certified: it has no radius.

python -m flows.train
"""

import json
from pathlib import Path

import numpy as np

from cleanlabel.flows.artifacts import TRAIN_METRICS
from cleanlabel.flows.store.client import connect, create_run, finish, log_files, log_metrics
from cleanlabel.flows.store.errors import translate_store_errors
from cleanlabel.flows.store.registry import SANITIZED, register
from cleanlabel.models.draw import learn
from cleanlabel.models.materials import CPU, Materials
from cleanlabel.models.params import TrainParams, check_recipe
from cleanlabel.models.parts import parts_of_recipe
from cleanlabel.models.plan import recipe_of
from cleanlabel.models.start import start_of
from cleanlabel.models.training import predict_inputs, reads_raw_images
from cleanlabel.models.weights import read_trained_on, save_weights, trained_on
from cleanlabel.sanitize import errors
from cleanlabel.sanitize.copies import manifest_path
from cleanlabel.sanitize.door import admit
from cleanlabel.sanitize.files import write_json
from cleanlabel.sanitize.imageset import load, require_trainable
from cleanlabel.sanitize.params import read_params
from cleanlabel.sanitize.paths import CLASSIFIER, SETS
from cleanlabel.sanitize.paths import SANITIZED as SANITIZED_SET
from cleanlabel.sanitize.sources import open_source


def main() -> None:
    recipe = read_params("train", TrainParams)
    sanitized, test = load(SANITIZED_SET), load(SETS["test"])
    require_trainable(sanitized, "sanitized")
    check_recipe(recipe)
    if recipe.bounded_influence:  # such a head needs many draws: the model on one copy has a linear head
        recipe = recipe.model_copy(update={"head": "lda"})
    manifest = json.loads(manifest_path(SANITIZED_SET).read_text())
    if recipe.initial_weights:
        admit(open_source(SETS["raw"]), parts_of_recipe(recipe))
    store = connect()

    raw = load(SETS["raw"]) if reads_raw_images(recipe) else sanitized  # un-noised images only if required
    weights = Path(recipe.initial_weights) if recipe.initial_weights else None
    materials = Materials(
        raw,
        test,
        manifest["sigma"],
        None,
        recipe,
        draws=1,
        start=start_of(recipe, CPU),
    )
    (whole,) = materials.blocks
    model = learn(whole, sanitized.images, whole.seed(bytes.fromhex(manifest["entropy"]), manifest["draw"]))
    accuracy = float(np.mean(predict_inputs(model, materials.test_inputs) == test.labels))
    metrics = {"test_accuracy": round(accuracy, 4)}
    if manifest["psnr_db"] is not None:  # the copy differs from the raw set
        metrics["sanitized_psnr_db"] = manifest["psnr_db"]

    saw = trained_on(load(SETS["raw"]), read_trained_on(weights) if weights else None)
    save_weights(model, CLASSIFIER, materials.architecture, saw)
    write_json(TRAIN_METRICS, metrics)
    with translate_store_errors():
        run_id = create_run(
            store,
            f"sanitized sigma={manifest['sigma']:g}",
            {"kind": "sanitized"},
            {"sigma": manifest["sigma"], "raw_digest": manifest["raw_digest"], "test_digest": test.digest}
            | {f"recipe.{key}": value for key, value in recipe_of(recipe).items()},
        )
        log_metrics(store, run_id, metrics)
        log_files(
            store,
            run_id,
            {
                "model/classifier.safetensors": CLASSIFIER.read_bytes(),
                "model/manifest.json": manifest_path(SANITIZED_SET).read_bytes(),
            },
        )
        finish(store, run_id)
        version = register(
            store,
            SANITIZED,
            run_id,
            "model",
            {"sanitized_digest": manifest["sanitized_digest"]},
            "Ordinary training on one sanitized copy. Defended, not certified: only the ensemble is certified.",
        )
    print(f"{CLASSIFIER}: test accuracy {accuracy:.3f}; {SANITIZED} version {version}")


if __name__ == "__main__":
    errors.run(main)
