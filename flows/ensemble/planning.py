"""Make the plan of an ensemble from params.yaml and data/, and refuse what cannot work before anything is made."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from cleanlabel.flows.ensemble.provenance import parts_of_plan
from cleanlabel.models.anytime import look_shares
from cleanlabel.models.blocks import RULE, block_of, ids_are_names
from cleanlabel.models.draw_sources import code_digest
from cleanlabel.models.params import CertifyParams, SmoothParams, TrainParams, check_recipe
from cleanlabel.models.plan import Plan, chosen_looks, least_models, noise_distance_of, recipe_of
from cleanlabel.sanitize.content import content_digest
from cleanlabel.sanitize.denoiser_files import PROVENANCE, Facts, digest_of, layout, read_config
from cleanlabel.sanitize.door import admit
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.files import file_digest
from cleanlabel.sanitize.fitting import fitting_for
from cleanlabel.sanitize.imageset import ImageSet, load, require_trainable
from cleanlabel.sanitize.noise import NOISE_STREAM
from cleanlabel.sanitize.params import IngestParams, SanitizeParams, read_params
from cleanlabel.sanitize.paths import DENOISER, SETS
from cleanlabel.sanitize.timestep import require_reachable


def make_plan(denoiser: dict[str, Any] | None = None) -> Plan:
    """The plan for params.yaml and the data under data/.

    denoiser: the facts of a denoiser that is still to be made. None: those that its stage recorded.
    """
    recipe = read_params("train", TrainParams)
    smooth_params, certify_params = read_params("smooth", SmoothParams), read_params("certify", CertifyParams)
    sanitize_params, ingest = read_params("sanitize", SanitizeParams), read_params("ingest", IngestParams)
    raw, test = load(SETS["raw"]), load(SETS["test"])
    require_trainable(raw, "raw")
    check_side(ingest, raw)
    check_recipe(recipe)
    check_initial(recipe, raw)
    if not len(test):
        raise InputError("the test set has no images; there is nothing to certify")
    if (certify_params.method == "split") != (smooth_params.selection > 0):
        raise InputError(
            f"params certify.method={certify_params.method!r} and smooth.selection={smooth_params.selection} do not "
            "fit: split needs models that choose the class (smooth.selection: 20, say), the other methods take none"
        )
    blocks = planned_blocks(smooth_params, certify_params, raw)
    if recipe.bounded_influence:
        check_influence(smooth_params, certify_params, raw)
    elif not sanitize_params.sigma:
        raise InputError(
            "param sanitize.sigma=0 adds no noise, and votes without noise certify nothing; give a sigma above 0"
        )
    looks, shares = looks_of(smooth_params, certify_params, len(raw.classes), len(test))
    sigma, test_sigma = sanitize_params.sigma, smooth_params.test_sigma
    made = denoiser is None
    if denoiser is None:
        denoise = sanitize_params.denoise and sigma > 0
        denoiser = denoiser_facts(raw, max(sigma, test_sigma)) if denoise else {}
    int8 = int8_of(denoiser, sigma, test_sigma)
    if recipe.twin and made:
        check_twin(Path(recipe.twin), sigma, denoiser.get("digest"))
    admitted = admit(raw, parts_of_plan(recipe, smooth_params, ingest, denoiser))
    states = {part["name"]: part["state"] for part in admitted}
    influence: dict[str, Any] = {}
    if recipe.bounded_influence:
        from cleanlabel.flows.ensemble.instrument import (
            planned_instrument,  # imported late: only here this process needs torch
        )

        digest = planned_instrument(recipe, raw, sigma, denoiser.get("digest")) if made else "to be made"
        sizes = np.bincount(raw.labels, minlength=len(raw.classes))
        influence = {"instrument_digest": digest, "class_sizes": tuple(sizes.tolist())}
    return Plan(
        m=smooth_params.m,
        selection=smooth_params.selection,
        sigma=sigma,
        test_sigma=test_sigma,
        raw_digest=raw.digest,
        test_digest=test.digest,
        denoiser_digest=denoiser.get("digest"),
        denoiser_state=states.get("denoiser"),
        initial_digest=_digest_of_initial(recipe),
        initial_state=states.get("initial weights"),
        recipe=recipe_of(recipe),
        classes=len(raw.classes),
        n_test=len(test),
        alpha=certify_params.alpha,
        method=certify_params.method,
        simultaneous=certify_params.simultaneous,
        stopping=smooth_params.stopping,
        looks=looks,
        shares=shares,
        batch_of_draws=smooth_params.batch_of_draws,
        entropy_spec=sanitize_params.entropy,
        code_digest=code_digest(),
        noise_stream=NOISE_STREAM,
        noise_distance=noise_distance_of(len(raw), raw.image_shape, sigma, test_sigma),
        raw_content=content_digest(raw),
        ensembles=smooth_params.ensembles,
        twin_digest=file_digest(Path(recipe.twin)) if recipe.twin else None,
        int8=int8,
        admitted=admitted,
        resized_to=raw.resized,
        **blocks,
        **influence,
    )


def check_influence(smooth: SmoothParams, certify: CertifyParams, raw: ImageSet) -> None:
    """InputError if a bounded-influence head does not fit the params and the raw set."""
    for name, value, wanted in (
        ("certify.method", certify.method, "binary"),
        ("smooth.stopping", smooth.stopping, "none"),
        ("smooth.test_sigma", smooth.test_sigma, 0),
        ("smooth.partitions", smooth.partitions, 1),
    ):
        if value != wanted:
            raise InputError(
                f"params train.head=bounded-influence and {name}={value} do not go together: sums are certified in "
                f"another way; set {name} to {wanted}, or choose another train.head"
            )
    sizes = np.bincount(raw.labels, minlength=len(raw.classes))
    if len(sizes) < 2 or not sizes.all():
        empty = [name for name, size in zip(raw.classes, sizes, strict=True) if not size]
        raise InputError(
            f"the raw set has no image of the class {empty[0]!r}; a bounded-influence head sums the images of each "
            "class: add some, or remove the class"
            if empty
            else "the raw set has one class; a bounded-influence head needs two or more"
        )


def planned_blocks(smooth: SmoothParams, certify: CertifyParams, raw: ImageSet) -> dict[str, Any]:
    """The plan's fields about blocks. InputError if the raw set or the params do not allow that many."""
    k, n = smooth.partitions, len(raw)
    if k == 1:
        return {}
    if k > n:
        raise InputError(f"param smooth.partitions={k} is more blocks than the raw set has images ({n}); lower it")
    for name, value, wanted, why in (
        ("certify.method", certify.method, "binary", "a block's votes choose its class and bound it"),
        ("smooth.stopping", smooth.stopping, "none", "a look is planned for one ensemble"),
        ("smooth.test_sigma", smooth.test_sigma, 0, "noise on a test input hits all blocks at once"),
    ):
        if value != wanted:
            raise InputError(
                f"params smooth.partitions={k} and {name}={value} do not go together ({why}); set {name} to {wanted}, "
                "or smooth.partitions to 1"
            )
    sizes = np.bincount(block_of(raw.ids, k), minlength=k)
    return {
        "partitions": k,
        "partition_rule": RULE,
        "block_sizes": tuple(sizes.tolist()),
        "stable_ids": ids_are_names(raw.ids),
    }


def looks_of(
    smooth: SmoothParams, certify: CertifyParams, classes: int, n_test: int
) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """The planned looks (numbers of draws) and each one's share of alpha. Both are empty without stopping."""
    if smooth.stopping == "none":
        if smooth.looks:
            raise InputError(f"param smooth.looks={smooth.looks} needs smooth.stopping: looks or sequence")
        return (), ()
    allowed = ("binary",) if smooth.stopping == "sequence" else ("binary", "margin")
    if certify.method not in allowed:
        raise InputError(
            f"param smooth.stopping={smooth.stopping!r} does not go with certify.method={certify.method!r}; "
            f"choose the method {' or '.join(allowed)}, or smooth.stopping: none"
        )
    batch, m = smooth.batch_of_draws, smooth.m
    alpha = certify.alpha / smooth.ensembles
    least = least_models(alpha / (n_test if certify.simultaneous else 1), certify.method, classes)
    times = tuple(smooth.looks) if smooth.looks else chosen_looks(m, least, batch)
    if times[-1] != m or any(a >= b for a, b in pairwise(times)) or any(t % batch for t in times[:-1]):
        raise InputError(
            f"param smooth.looks={list(times)} must increase, end with smooth.m={m} and, before that, be multiples of "
            f"smooth.batch_of_draws={batch}"
        )
    if smooth.stopping == "sequence":
        return times, ()
    return times, look_shares(times)


def _digest_of_initial(recipe: TrainParams) -> str | None:
    return file_digest(Path(recipe.initial_weights)) if recipe.initial_weights else None


def check_initial(recipe: TrainParams, raw: ImageSet) -> None:
    """InputError if there are initial weights that do not fit the recipe and the images."""
    if recipe.initial_weights is None:
        return
    path = Path(recipe.initial_weights)
    if not path.is_file():
        raise InputError(
            f"param train.initial_weights={recipe.initial_weights!r} does not exist; put the weights' safetensors "
            "file under data/pretrained/"
        )
    from cleanlabel.models.extractors import (  # imported late: only here this process needs torch
        load_extractor,
        require_fits,
    )
    from cleanlabel.models.training import architecture_of
    from cleanlabel.models.twins import load_twin
    from cleanlabel.models.weights import read_weights

    if recipe.mode == "transfer":
        extractor = load_extractor(path)
        require_fits(extractor, raw.image_shape)
        if recipe.twin:
            if not Path(recipe.twin).is_file():
                raise InputError(
                    f"param train.twin={recipe.twin!r} does not exist; make it with `python -m flows.distil`"
                )
            load_twin(extractor, Path(recipe.twin))
        if recipe.head_prior and extractor.head.out_features != len(raw.classes):
            raise InputError(
                f"param train.head_prior=true: the head in {path} has {extractor.head.out_features} classes, the raw "
                f"set {len(raw.classes)}; set it to false"
            )
        return
    found, wanted = read_weights(path)[0], architecture_of(recipe, raw.image_shape, len(raw.classes))
    if found != wanted:
        raise InputError(f"{path} holds a {found}, train.mode='fine-tune' needs a {wanted}; correct params.yaml")


def check_twin(path: Path, sigma: float, denoiser_digest: str | None) -> None:
    """InputError unless the twin was distilled for this noise, from images that this denoiser sanitized."""
    from cleanlabel.models.twins import read_twin  # imported late: only here this process needs torch

    facts = read_twin(path)
    if facts["sigma"] != sigma:
        raise InputError(
            f"the twin in {path} was distilled at sigma {facts['sigma']:g}, and sanitize.sigma={sigma:g}; make one for "
            "this sigma with `python -m flows.distil`"
        )
    if "denoiser" in facts and facts["denoiser"] != denoiser_digest:
        raise InputError(
            f"the twin in {path} was distilled with another denoiser ({str(facts['denoiser'])[:12]}, not "
            f"{str(denoiser_digest)[:12]}), and could carry what that one was trained on; make one with this denoiser "
            "with `python -m flows.distil`"
        )


def check_side(ingest: IngestParams, raw: ImageSet) -> None:
    """InputError unless the raw set was resized as ingest.side says: a radius is about the resized pixels."""
    if ingest.side != raw.resized:
        raise InputError(
            f"param ingest.side={ingest.side}, and {SETS['raw']} was made with {raw.resized}; run `dvc repro ingest`"
        )


def int8_of(denoiser: dict[str, Any], sigma: float, test_sigma: float) -> dict[str, Any] | None:
    """The plan's facts about the denoiser's int8 network; None without one.

    InputError if it is for another sigma, or if test inputs are noised.
    """
    int8: dict[str, Any] | None = denoiser.get("int8")
    if int8 is not None and (int8["sigma"] != sigma or test_sigma):
        raise InputError(
            f"the denoiser's int8 network is for sigma={int8['sigma']:g} and for training images alone: params "
            f"sanitize.sigma={sigma:g} and smooth.test_sigma={test_sigma:g} do not fit; set denoiser.int8 to "
            f"{f'{sigma:g}' if not test_sigma else 'null'}"
        )
    return int8


def denoiser_facts(raw: ImageSet, sigma: float) -> dict[str, Any]:
    """The facts that the denoiser stage recorded. InputError if the denoiser does not fit the images and sigma."""
    layout(DENOISER)
    provenance = read_config(DENOISER / PROVENANCE)
    if provenance["digest"] != digest_of(DENOISER):
        raise InputError(f"{DENOISER} was changed after it was made; run `dvc repro --force denoiser`")
    facts = Facts(**provenance["made_for"])
    require_reachable(sigma, facts.largest_sigma)
    fitting_for(np.array([raw.image_shape[:2]]), raw.image_shape[2], facts, "exact")
    return provenance
