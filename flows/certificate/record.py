"""A certificate as a record: computed from an ensemble's votes, with nothing that does not follow from them."""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from mlflow.entities.model_registry import ModelVersion
from numpy.typing import NDArray

from cleanlabel.flows.certificate.figures import at_images, at_radii, at_triggers
from cleanlabel.flows.certificate.influences import influence_record, reported_radii
from cleanlabel.flows.certificate.partitions import partition_record
from cleanlabel.flows.certificate.sealed import require_as_registered
from cleanlabel.flows.ensemble.assembly import Assembly, assemble, check_registration, check_seals
from cleanlabel.flows.ensemble.attempts import COPIES, UNKNOWN
from cleanlabel.flows.ensemble.entropy import reveal_entropy
from cleanlabel.flows.ensemble.record import Ensemble, Votes, attempt_in_labels, describe, read_ensemble, root_of
from cleanlabel.flows.store.client import Store
from cleanlabel.flows.store.registry import SMOOTHED
from cleanlabel.models.answers import answers, largest_radius
from cleanlabel.models.certificate import ABSTAIN
from cleanlabel.models.influenced import Influenced
from cleanlabel.models.params import CertifyParams
from cleanlabel.models.plan import Plan, require_exact_noise
from cleanlabel.models.rounding import down, down_text, exact, up, up_text
from cleanlabel.sanitize.content import content_digest
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.imageset import ImageSet
from cleanlabel.sanitize.noise import Entropy
from cleanlabel.sanitize.paths import SETS


@dataclass(frozen=True)
class Certified:
    """A certificate with the votes, the label and the radius of each test image.

    assembly: the checked votes that it was computed from, where they were read from a store.
    """

    certificate: dict[str, Any]
    counts: NDArray[np.int64]
    label: NDArray[np.int64]
    radius: NDArray[np.float64]
    influenced: Influenced | None = None
    assembly: Assembly | None = None


def require_certifiable(ensemble: Ensemble) -> None:
    """InputError with the reasons if this ensemble must not be given a radius."""
    require_exact_noise(ensemble.plan)
    planned = "os" if ensemble.plan.entropy_spec == "os" else "fixed"
    if ensemble.entropy_source != planned:
        raise InputError(
            f"ensemble run {ensemble.run_id} calls its entropy {ensemble.entropy_source!r}, and its plan says "
            f"{planned}; the record was edited; restore the store, or make a new ensemble with `dvc repro`"
        )
    if not ensemble.plan.certifiable:
        raise InputError(
            f"the ensemble is not certifiable: {'; '.join(ensemble.plan.voids)}. Changed raw images could reach its "
            "models past the noise, so no radius holds; change that in params.yaml and run `dvc repro`"
        )


def certify_version(
    store: Store, version: ModelVersion, raw: ImageSet, test: ImageSet, params: CertifyParams
) -> tuple[Certified, Entropy]:
    """The version's certificate and its revealed entropy. All available checks of the votes come first."""
    ensemble = read_ensemble(store, store.client.get_run(version.run_id))
    require_certifiable(ensemble)
    if raw.digest != ensemble.plan.raw_digest:
        raise InputError(
            f"{SETS['raw']} is not the raw set of {SMOOTHED} version {version.version} (digest {raw.digest[:12]}, not "
            f"{ensemble.plan.raw_digest[:12]}); check out the data it was made from"
        )
    if ensemble.plan.raw_content not in (None, content_digest(raw)):
        raise InputError(
            f"the plan of {SMOOTHED} version {version.version} does not have the content digest of {SETS['raw']}; "
            "its attempts were counted for another raw set, so it cannot be certified"
        )
    sizes = tuple(np.bincount(raw.labels, minlength=ensemble.plan.classes).tolist())
    if ensemble.plan.bounded_influence and ensemble.plan.class_sizes != sizes:
        raise InputError(
            f"the plan of {SMOOTHED} version {version.version} counts {list(ensemble.plan.class_sizes)} raw images by "
            f"class, and {SETS['raw']} has {list(sizes)}; its bounds would differ, so it cannot be certified"
        )
    assembly = assemble(store, ensemble)
    lost = check_registration(store, ensemble, version, assembly.votes)
    require_as_registered(store, version)
    entropy = reveal_entropy(store, ensemble)
    check_seals(assembly, entropy)
    certified = compute(ensemble, assembly.votes, lost, entropy, test, raw.image_shape, params)
    return replace(certified, assembly=assembly), entropy


def compute(
    ensemble: Ensemble,
    votes: Votes,
    lost: list[int],
    entropy: Entropy,
    test: ImageSet,
    image_shape: tuple[int, ...],
    params: CertifyParams,
) -> Certified:
    """The certificate of these votes. The same votes, plan and test labels give a byte-identical certificate.

    lost: registered draws that have disappeared; like every missing draw, they count for no class. InputError if the
    ensemble is not certifiable, the params or the test set are not the planned ones, or (method split) a draw that
    chooses the class is missing.
    """
    require_certifiable(ensemble)
    plan = ensemble.plan
    if (params.alpha, params.method, params.simultaneous) != (plan.alpha, plan.method, plan.simultaneous):
        raise InputError("certify.alpha, method or simultaneous are not the planned ones; run `dvc repro smooth`")
    if test.digest != plan.test_digest:
        raise InputError(
            f"{SETS['test']} is not the test set this ensemble voted on (digest {test.digest[:12]}, "
            f"not {plan.test_digest[:12]}); run `dvc repro`"
        )
    m = ensemble.m
    missing = [draw for draw in range(ensemble.draws) if draw not in votes]
    unchosen = sum(draw >= m for draw in missing)
    if unchosen:  # dropping some of them would choose the class after seeing the votes that bound it
        raise InputError(
            f"{unchosen} of the {plan.selection} draws that choose the class are missing; "
            "run `dvc repro --force smooth`"
        )
    found = answers(plan, ensemble.attempts_before, m, votes, len(test))
    label, radius, counts = found.label, found.radius, found.counts
    dimension = math.prod(image_shape)
    radii, images = params.radii, params.images
    if found.influenced:
        radii = reported_radii(radii, float(radius.max(initial=0)))
    if not plan.sigma:  # no radius is claimed
        radii, images = [], []
    certificate = {
        **describe(ensemble),
        "m": m,
        "planned_m": plan.m,
        "level": plan.level_at(m, ensemble.attempts_before),
        "unknown_attempts": UNKNOWN[ensemble.ledger or "kept"] + (COPIES if ensemble.earlier_raw_sets else ""),
        "rule": _rule(ensemble),
        "entropy": entropy.hex,
        "votes_root": root_of(votes, ensemble.draws),
        "missing_draws": missing,
        "lost_draws": lost,
        "vote_accuracy": down(np.mean(found.vote == test.labels), 4),
        "abstentions": int(np.sum(label == ABSTAIN)),
        "largest_certifiable_radius": down(largest_radius(plan, ensemble.attempts_before, m), 6),
        "image_shape": list(image_shape),
        "reported": params.model_dump(mode="json"),
        "at_radii": at_radii(label, radius, test.labels, radii, params.epsilon_255, dimension),
        "at_images": at_images(label, radius, test.labels, images, params.epsilons_255, dimension),
        "at_triggers": at_triggers(label, radius, test.labels, params.radii, plan.sigma, plan.test_sigma),
        "covers": _scope(plan),
        "holds": "for all test points at once" if plan.simultaneous else "for each test point on its own",
    }
    if plan.partitions > 1:
        sizes = np.array(plan.block_sizes)
        certificate["blocks"] = partition_record(
            found.block_labels,
            found.block_radii,
            test.labels,
            params,
            dimension,
            plan.classes,
            sizes,
            stable_ids=plan.stable_ids,
        )
    if found.influenced:
        certificate["influence"] = influence_record(found.influenced, test.labels, params)
    return Certified(certificate, counts, label, radius, found.influenced)


def _rule(ensemble: Ensemble) -> str:
    """How the number of models was decided, and why the certificate stays true."""
    plan = ensemble.plan
    if plan.partitions > 1:
        return f"{plan.m} models of each of {plan.partitions} blocks, as planned"
    if plan.bounded_influence:
        return f"{plan.m} draws, as planned"
    if plan.stopping == "none":
        return f"{plan.m} models, as planned"
    where = f"stopped at {ensemble.m}" if ensemble.stopped else f"went on to all {plan.m}"
    if plan.stopping == "sequence":
        return f"{where} of at most {plan.m} models; a confidence sequence, valid at every number of models"
    times = ", ".join(map(str, plan.looks))
    share = plan.shares[plan.looks.index(ensemble.m)]
    return f"{where} of at most {plan.m} models; looks planned at {times}; this one spends {up(share, 3):.1%} of alpha"


def _scope(plan: Plan) -> str:
    side = plan.resized_to
    about = f"; pixels are those after every image was resized to {side}x{side} (ingest.side)" if side else ""
    return f"{_changes(plan)}{about}"


def _changes(plan: Plan) -> str:
    sigma, test_sigma = plan.sigma, plan.test_sigma
    if plan.bounded_influence:
        moved = "changed pixels of any training images, joint l2 over the whole training set, in [0,1] pixel units"
        will = "training images rewritten, relabelled, added or removed at will, up to the counts stated"
        return (
            f"{will}; not changes of the test input"
            if not sigma
            else (f"{moved}; and beside it {will} (see the frontier); not changes of the test input")
        )
    poison = "changed pixels of training images (labels and ids fixed, no image added or removed), joint l2 over the "
    poison += "whole training set, in [0,1] pixel units"
    if plan.partitions > 1:
        poison += "; where some blocks are given away, besides, any change of the images in them (see the frontier)"
    if not test_sigma:
        return f"{poison}; not changes of the test input"
    return (
        f"{poison}; and changes omega of the test input with (l2 norm of omega / {test_sigma:g})^2 + "
        f"(joint l2 / {sigma:g})^2 < (R / {sigma:g})^2"
    )


def metrics_of(certificate: dict[str, Any]) -> dict[str, float]:
    """The certificate's key figures by name."""
    figures = {
        "vote_accuracy": certificate["vote_accuracy"],
        "abstention_rate": up(certificate["abstentions"] / certificate["n_test"], 4),
    }
    for row in certificate["at_radii"]:
        r = row["radius"]
        words = down_text(r, 2) if down(r, 2) == r else exact(r)
        figures[f"certified_accuracy_r{words.replace('.', '_')}"] = row["certified_accuracy"]
    for row in certificate.get("influence", {}).get("counts", []):
        figures |= {f"certified_accuracy_{row['images']}_{way}": row[way] for way in ("rewritten", "relabelled")}
    return figures


def tags_of(certificate: dict[str, Any]) -> dict[str, str]:
    """The tags of a certified version: the key figures, and the level at which they hold."""
    return {name: str(value) for name, value in metrics_of(certificate).items()} | {
        "level": up_text(certificate["level"], 6),
        "attempt": str(attempt_in_labels(certificate)),
        "missing_draws": str(len(certificate["missing_draws"])),
    }
