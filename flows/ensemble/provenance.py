"""What a plan is made from besides the raw set: the parts that go through the one door, and what else is compared."""

from typing import Any

from cleanlabel.models.params import SmoothParams, TrainParams
from cleanlabel.models.parts import part_of_trusted, parts_of_recipe
from cleanlabel.sanitize.door import STATED_BY, Part
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.imageset import ImageSet, load
from cleanlabel.sanitize.overlap import record_of, shared
from cleanlabel.sanitize.params import IngestParams, Provenance
from cleanlabel.sanitize.parts import parts_of_denoiser
from cleanlabel.sanitize.paths import DENOISER, SETS

CHOSEN: dict[str, tuple[Provenance, str]] = {
    "trusted": ("disjoint", "trusted images"),
    "nothing": ("disjoint", "no images at all"),
    "fixed-before": ("fixed-before", "a trusted earlier copy of the raw set"),
    "raw": ("on-raw", "the raw set"),
}
"""`smooth.chosen_on` as a statement of the door: its state and its words."""
DEMO = "the embedded digits, whose settings come with this project"


def parts_of_plan(
    recipe: TrainParams, smooth: SmoothParams, ingest: IngestParams, denoiser: dict[str, Any]
) -> list[Part]:
    """Every part that can reach the models of a plan. denoiser: the facts that its stage recorded; empty: none is used.

    InputError if a part's file or record is missing or damaged, or if nobody stated how the settings were chosen.
    """
    parts = []
    if denoiser:
        state, origin = denoiser.get("state"), denoiser.get("origin")
        parts += parts_of_denoiser(DENOISER, state, origin, STATED_BY, denoiser)
    parts += parts_of_recipe(recipe)
    if recipe.bounded_influence and recipe.influence_form == "instrumental":
        asks = ("ingest.trusted_provenance", "")
        parts.append(part_of_trusted(load(SETS["trusted"]), ingest.trusted_provenance, asks))
    return [*parts, part_of_settings(smooth, ingest)]


def part_of_settings(smooth: SmoothParams, ingest: IngestParams) -> Part:
    """The statement of how the settings were chosen. InputError without one, but for the embedded digits."""
    if smooth.chosen_on is not None:
        state, words = CHOSEN[smooth.chosen_on]
    elif ingest.source == "digits":
        state, words = "fixed-before", DEMO
    else:
        raise InputError(
            "param smooth.chosen_on is null: state by which images sigma, partitions, the recipe and all other "
            "settings were chosen (trusted: trusted images; nothing: no images at all; fixed-before: a trusted earlier "
            "copy of the raw set that no attack could reach; raw: the raw set as supplied, which voids the certificate)"
        )
    return Part("settings", None, state=state, origin=words)


def shared_with_test(raw: ImageSet, test: ImageSet) -> str | None:
    """A sentence if test images are also raw images: the certificates stay true, but accuracy means less."""
    found = shared(record_of(test.images, test.ids), record_of(raw.images, raw.ids))
    if not len(found):
        return None
    return (
        f"{len(found)} of {len(test)} test images are also exact or near copies of raw images: the "
        "certificates hold, but accuracy on images that nothing was trained on is lower."
    )
