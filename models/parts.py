"""The parts of a recipe for the one door (`sanitize.door`): initial weights, an extractor's twin, trusted images."""

from pathlib import Path

from cleanlabel.models.params import TrainParams
from cleanlabel.models.twins import seen_by_twin
from cleanlabel.models.weights import TrainedOn, read_trained_on
from cleanlabel.sanitize.door import Part
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.files import file_digest
from cleanlabel.sanitize.imageset import ImageSet
from cleanlabel.sanitize.overlap import record_of
from cleanlabel.sanitize.params import Provenance


def parts_of_recipe(recipe: TrainParams) -> list[Part]:
    """The files that the recipe names: its initial weights or extractor, and the extractor's twin.

    InputError if a file is missing, or its record of training images is damaged.
    """
    parts = []
    if recipe.initial_weights:
        parts.append(
            part_of_weights(
                Path(recipe.initial_weights),
                recipe.initial_provenance,
                recipe.initial_origin,
                ("train.initial_provenance", "train.initial_origin"),
            )
        )
    if recipe.twin:
        parts.append(part_of_twin(Path(recipe.twin), recipe.twin_provenance, recipe.twin_origin))
    return parts


def part_of_weights(
    path: Path, state: Provenance | None = None, origin: str | None = None, asks: tuple[str, str] | None = None
) -> Part:
    """A network's weights from elsewhere. Its record, if it has one, holds hashes alone: exact copies are found."""
    if not path.is_file():
        raise InputError(f"the weights {path} do not exist; put their safetensors file there, or name another")
    seen, digest = read_trained_on(path), file_digest(path)
    return Part(
        "initial weights",
        digest,
        state=state,
        origin=origin,
        asks=asks,
        trained_on=seen.digest,
        record=seen.record,
        where=str(path),
    )


def part_of_twin(path: Path, state: Provenance | None = None, origin: str | None = None) -> Part:
    """An extractor's twin. One that `flows.distil` made has a whole record of its images, and needs no statement."""
    seen: TrainedOn = seen_by_twin(path)
    here = seen.record is not None and len(seen.record) > 0 and len(seen.record.thumbnails) == len(seen.record)
    asks = ("train.twin_provenance", "train.twin_origin")
    return Part("twin", file_digest(path), here, state, origin, asks, seen.digest, seen.record, str(path))


def part_of_trusted(trusted: ImageSet, state: Provenance | None = None, asks: tuple[str, str] | None = None) -> Part:
    """The trusted images that a bounded-influence head is fitted to."""
    record = record_of(trusted.images, trusted.ids)
    return Part(
        "trusted images",
        trusted.digest,
        made_here=True,
        state=state,
        asks=asks,
        trained_on=trusted.digest,
        record=record,
    )
