"""A denoiser for the one door (`sanitize.door`), and the records of what it was made from."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cleanlabel.sanitize.denoiser_files import (
    HERE,
    IMAGES,
    INT8,
    INT8_FACTS,
    INT8_IMAGES,
    PROVENANCE,
    int8_files,
    provenance_place,
    read_config,
)
from cleanlabel.sanitize.door import Part
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.files import file_digest
from cleanlabel.sanitize.overlap import Record, read_record

if TYPE_CHECKING:  # only these imports need torch and pydantic
    from cleanlabel.sanitize.denoiser import Denoiser
    from cleanlabel.sanitize.params import Provenance


def parts_of_denoiser(
    directory: Path,
    state: "Provenance | None" = None,
    origin: str | None = None,
    asks: tuple[str, str] | None = None,
    known: Mapping[str, Any] | None = None,
    digest: str | None = None,
    *,
    int8: bool = True,
    stated: bool = False,
) -> list[Part]:
    """The denoiser in a directory and, if it has one, its int8 network (unless `int8` is False: it is not used).

    known: the content of its provenance.json, if the caller has read it. stated: take the statement that its stage
    recorded there, which is about this project's raw set. InputError if the record of its training images is missing,
    changed or damaged.
    """
    if not directory.is_dir():
        raise InputError(
            f"{directory}, from which the denoiser was loaded, is gone, and with it the record of what it was trained "
            "on; load the denoiser again"
        )
    place = provenance_place(directory)
    if known is None:
        known = read_config(place / PROVENANCE) if place else {}
    if stated:
        state, origin = known.get("state"), known.get("origin")
    here = known.get("source") == HERE
    record = _record_of_denoiser(place or directory, known, here=here)
    where = "" if known.get("source") is None or here else f"denoiser.source={known.get('source')!r}"
    parts = [
        Part(
            "denoiser",
            digest or known.get("digest"),
            here and record is not None and len(record) > 0,
            state,
            origin,
            asks,
            known.get("trained_on"),
            record,
            where,
        )
    ]
    if int8 and int8_files(directory):
        folder = directory / INT8
        facts, seen = read_config(folder / INT8_FACTS), read_record(folder / INT8_IMAGES)
        if not len(seen) or len(seen) != facts.get("images"):
            raise InputError(
                f"{folder / INT8_IMAGES} records {len(seen)} images, and the int8 network's scales were set on "
                f"{facts.get('images')}; restore it, or make the network again with `dvc repro --force denoiser`"
            )
        scales = Part("int8 scales", None, made_here=True, trained_on=facts.get("scales_set_on"), record=seen)
        parts.append(scales)
    return parts


def parts_of_loaded(
    denoiser: "Denoiser",
    state: "Provenance | None",
    origin: str | None,
    asks: tuple[str, str] | None,
    *,
    int8: bool = True,
    stated: bool = False,
) -> list[Part]:
    """The same for a denoiser in memory, with the record that lies where it was loaded from."""
    if denoiser.directory is None:
        return [Part("denoiser", denoiser.digest, state=state, origin=origin, asks=asks)]
    return parts_of_denoiser(denoiser.directory, state, origin, asks, digest=denoiser.digest, int8=int8, stated=stated)


def _record_of_denoiser(place: Path, known: Mapping[str, Any], *, here: bool) -> Record | None:
    path = place / IMAGES
    if not path.is_file():
        if here or known.get("images"):
            raise InputError(
                f"{path}, the record of what the denoiser was trained on, does not exist; run `dvc repro --force "
                "denoiser`, or copy it from where the denoiser was made"
            )
        return None
    if "images" in known and known["images"] != file_digest(path):
        raise InputError(
            f"{path} was changed after it was made; run `dvc repro --force denoiser`, or copy it again from where the "
            "denoiser was made"
        )
    return read_record(path)
