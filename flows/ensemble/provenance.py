"""The provenance of a plan's external parts: their stated origin, and the raw images they were trained on."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cleanlabel.models.params import TrainParams
from cleanlabel.models.weights import TrainedOn, read_trained_on
from cleanlabel.sanitize.denoiser_files import HERE, IMAGES, INT8, INT8_IMAGES
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.files import file_digest
from cleanlabel.sanitize.imageset import ImageSet
from cleanlabel.sanitize.overlap import Record, read_record, record_of, require_unseen, shared
from cleanlabel.sanitize.params import require_stated
from cleanlabel.sanitize.paths import DENOISER


@dataclass(frozen=True)
class Provenance:
    """The stated origin of a denoiser or of weights, and how many raw images they were trained on.

    origin: None if this pipeline trained them. shared: None if there is no record of the training images.
    """

    state: str | None = None
    origin: str | None = None
    shared: int | None = None

    def fields(self, name: str) -> dict[str, Any]:
        """The plan's fields for the part of this name."""
        return {f"{name}_state": self.state, f"{name}_origin": self.origin, f"{name}_shared": self.shared}


def of_denoiser(facts: dict[str, Any], raw: ImageSet) -> Provenance:
    """The provenance of the denoiser with these facts (`flows.ensemble.planning.denoiser_facts`; empty: no denoiser).

    InputError if an external denoiser has no stated origin, or if it saw raw images and no statement covers that.
    """
    if not facts:
        return Provenance()
    state, origin = facts.get("state"), facts.get("origin")
    here = facts.get("source") == HERE
    if not here:
        source = f"the denoiser (denoiser.source={facts.get('source')!r})"
        require_stated(source, ("denoiser.provenance", state), ("denoiser.origin", origin))
    trained_on = TrainedOn(facts.get("trained_on"), _record_of_denoiser(facts, here=here))
    return Provenance(state, origin, _seen(raw, trained_on, state, "the denoiser", "denoiser.provenance"))


def of_int8(facts: dict[str, Any], raw: ImageSet, sigma: float, test_sigma: float) -> dict[str, Any] | None:
    """The plan's facts about the int8 network of the denoiser with these facts; None without one.

    InputError if it is for another sigma, if test inputs are noised, or if its scales were set on raw images.
    """
    int8: dict[str, Any] | None = facts.get("int8")
    if int8 is None:
        return None
    if int8["sigma"] != sigma or test_sigma:
        raise InputError(
            f"the denoiser's int8 network is for sigma={int8['sigma']:g} and for training images alone: params "
            f"sanitize.sigma={sigma:g} and smooth.test_sigma={test_sigma:g} do not fit; set denoiser.int8 to "
            f"{f'{sigma:g}' if not test_sigma else 'null'}"
        )
    seen = read_record(DENOISER / INT8 / INT8_IMAGES)
    require_unseen(record_of(raw.images, raw.ids), seen, "the denoiser's int8 network had its scales set")
    return int8


def of_initial_weights(recipe: TrainParams, raw: ImageSet) -> Provenance:
    """The provenance of the recipe's initial weights, if there are any. InputError as for a denoiser."""
    if recipe.initial_weights is None:
        return Provenance()
    state, origin = recipe.initial_provenance, recipe.initial_origin
    names = ("train.initial_provenance", state), ("train.initial_origin", origin)
    require_stated(f"the file train.initial_weights={recipe.initial_weights!r}", *names)
    trained_on = read_trained_on(Path(recipe.initial_weights))
    count = _seen(raw, trained_on, state, f"the network in {recipe.initial_weights}", "train.initial_provenance")
    return Provenance(state, origin, count)


def compared(raw: ImageSet, record: Record, state: str | None, what: str, param: str) -> int:
    """How many raw images `what` was trained on.

    InputError, with their number and names, if there are any although the param of this name states `disjoint`.
    """
    own = record_of(raw.images, raw.ids)
    found = shared(own, record)
    if len(found) and state == "disjoint":
        raise InputError(
            f"{len(found)} of {len(raw)} raw images are among those that {what} was trained on "
            f"({found.in_words(own, record)}); {_way_out(param)}"
        )
    return len(found)


def shared_with_test(raw: ImageSet, test: ImageSet) -> str | None:
    """A sentence if test images are also raw images: the certificates stay true, but accuracy means less."""
    found = shared(record_of(test.images, test.ids), record_of(raw.images, raw.ids))
    if not len(found):
        return None
    return (
        f"{len(found)} of {len(test)} test images are also exact or near copies of raw images: the "
        "certificates hold, but accuracy on images that nothing was trained on is lower."
    )


def _seen(raw: ImageSet, trained_on: TrainedOn, state: str | None, what: str, param: str) -> int | None:
    """How many raw images `what` was trained on; None without a record. InputError as for `compared`."""
    if trained_on.record is not None:
        return compared(raw, trained_on.record, state, what, param)
    if trained_on.digest != raw.digest:
        return None
    if state == "disjoint":
        raise InputError(f"{what} was trained on this raw set ({raw.digest[:12]}); {_way_out(param)}")
    return len(raw)


def _way_out(param: str) -> str:
    return (
        f"remove them from one side, or state {param}: fixed-before if they are a trusted earlier copy that no attack "
        "on the raw set could reach, or on-raw, which voids the certificate"
    )


def _record_of_denoiser(facts: dict[str, Any], *, here: bool) -> Record | None:
    path = DENOISER / IMAGES
    if not path.is_file():
        if here or facts.get("images"):
            raise InputError(
                f"{path}, the record of what the denoiser was trained on, does not exist; run `dvc repro --force "
                "denoiser`"
            )
        return None
    if facts.get("images") != file_digest(path):
        raise InputError(f"{path} was changed after it was made; run `dvc repro --force denoiser`")
    return read_record(path)
