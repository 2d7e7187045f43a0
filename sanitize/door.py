"""The one door: what is fixed beforehand and can reach training or prediction is admitted here, against the raw set.

A denoiser, its int8 scales, initial weights or an extractor, an extractor's twin, the trusted images behind a head, and
settings chosen on data must not depend on the raw set as supplied (rule 11). Each is a `Part`, read from its files by
the module that opens them. `admit` demands its statement, compares the record of what it was made from with the raw
set, and returns what plan, manifest, card, page and certificate show.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.imageset import ImageSet
from cleanlabel.sanitize.overlap import Record, compared_in_words, record_of, record_of_source, shared
from cleanlabel.sanitize.sources import Source

if TYPE_CHECKING:  # only this import needs pydantic
    from cleanlabel.sanitize.params import Provenance

STATES = ("disjoint", "fixed-before", "on-raw")
"""What a part was made from: other data than the raw set; a trusted earlier copy of it, which no attack reaches; or the
raw set as supplied, which voids the certificate."""
STATED_BY = ("denoiser.provenance", "denoiser.origin")
"""The params that state the pipeline's denoiser."""
Admitted = tuple[dict[str, Any], ...]
"""The admitted parts in plain values: name, digest, made_here, state, origin, and what the comparison found."""


@dataclass(frozen=True, eq=False)
class Part:
    """Something that is fixed beforehand and can reach training or prediction.

    name: one of `KINDS`. digest: sha256 of its files, if it has any. made_here: this program made it from recorded
    images, so that it needs no statement. state, origin: the user's statement; asks: the two params, flags or arguments
    that take it. trained_on: the digest of the set that it was made from; record: the record of its images. Both are
    None where nobody wrote them. where: its file, for sentences.
    """

    name: str
    digest: str | None
    made_here: bool = False
    state: "Provenance | None" = None
    origin: str | None = None
    asks: tuple[str, str] | None = None
    trained_on: str | None = None
    record: Record | None = None
    where: str = ""


@dataclass(frozen=True)
class Kind:
    """The words for a kind of part: its subject, how it came from its images, and the reason that voids a plan.

    file: its name beside the place of its file, if the place is told.
    """

    subject: str
    made: str
    void: str
    was: str = "was"
    file: str = ""

    def on(self, where: str = "") -> str:
        """The subject with its verb, and its file if it has one: `the twin in twin.safetensors was distilled on`."""
        return f"{f'{self.file} in {where}' if self.file and where else self.subject} {self.was} {self.made}"


KINDS = {
    "denoiser": Kind("the denoiser", "trained on", "the denoiser was trained on the raw set as supplied"),
    "int8 scales": Kind(
        "the denoiser's int8 network", "set on", "the int8 scales were set on the raw set as supplied", "had its scales"
    ),
    "initial weights": Kind(
        "the network of the initial weights",
        "trained on",
        "the initial weights were trained on the raw set as supplied",
        file="the network",
    ),
    "twin": Kind(
        "the extractor's twin",
        "distilled on",
        "the extractor's twin was distilled on the raw set as supplied",
        file="the twin",
    ),
    "trusted images": Kind(
        "the head", "fitted to", "the head's public part was fitted to the raw set as supplied", "is"
    ),
    "settings": Kind(
        "the choice of the settings",
        "based on",
        "its params were chosen by looking at the raw set (smooth.chosen_on)",
        "is",
    ),
}
"""Every kind of part that there is. A new kind is added here, and nowhere else."""


def admit(raw: ImageSet | Source | None, parts: Sequence[Part], *, demand: bool = True) -> Admitted:
    """Admit the parts against the raw set; what is returned stands in plan, manifest, card, page and certificate.

    raw: None where no raw set may be read (`flows.choose`): statements are demanded, and nothing is compared. demand:
    False where no statement can be given, as in a drill; then a missing one is shown as missing. InputError for a part
    without its statement, and for one whose record holds raw images (exact copies, or near ones) unless it is stated
    that they are a trusted earlier copy (`fixed-before`) or that the certificate is void (`on-raw`).
    """
    own: list[Record] = []

    def of_raw() -> Record:
        if not own and raw is not None:
            own.append(record_of(raw.images, raw.ids) if isinstance(raw, ImageSet) else record_of_source(raw))
        return own[0]

    return tuple(_admitted(raw, part, of_raw, demand=demand) for part in parts)


def _admitted(
    raw: ImageSet | Source | None, part: Part, of_raw: Callable[[], Record], *, demand: bool
) -> dict[str, Any]:
    kind = KINDS[part.name]
    if demand and not part.made_here and part.asks:
        require_stated(f"{kind.subject}{f' ({part.where})' if part.where else ''}", part)
    found: int | None = None
    if raw is not None and part.record is not None:
        theirs = shared(of_raw(), part.record)
        found = len(theirs)
        if found and part.state in (None, "disjoint"):
            raise InputError(
                f"{found} of {len(raw)} raw images are among those that {kind.on(part.where)} "
                f"({theirs.in_words(of_raw(), part.record)}){_way_out(part)}"
            )
    elif raw is not None and part.trained_on is not None and part.trained_on == raw.digest:
        found = len(raw)
        if part.state in (None, "disjoint"):
            raise InputError(f"{kind.on(part.where)} this raw set ({raw.digest[:12]}){_way_out(part)}")
    return {
        "name": part.name,
        "digest": part.digest,
        "made_here": part.made_here,
        "state": part.state or ("disjoint" if part.made_here else None),
        "origin": part.origin,
        "raw": None if raw is None else len(raw),
        "recorded": None if part.record is None else len(part.record),
        "near": part.record is not None and bool(len(part.record.thumbnails)),
        "shared": found,
        "voids": kind.void if part.state == "on-raw" else None,
    }


def _way_out(part: Part) -> str:
    if part.asks is None:
        return ", which would void the certificate; remove them from one side"
    return (
        f"; remove them from one side, or state {part.asks[0]}: fixed-before if they are a trusted earlier copy that "
        "no attack on the raw set could reach, or on-raw, which voids the certificate"
    )


def require_stated(what: str, part: Part) -> None:
    """InputError unless the origin of a part from elsewhere is stated by both of its params: no default is safe."""
    provenance, origin = part.asks or ("provenance", "origin")
    missing = [name for name, value in ((provenance, part.state), (origin, part.origin)) if not value]
    if missing:
        raise InputError(
            f"{what} comes from elsewhere and {' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} null: "
            f"state {provenance} (disjoint: trained on other data than the raw set; fixed-before: on a trusted "
            "earlier copy of it that no attack could reach; on-raw: on the raw set as supplied, which voids the "
            f"certificate) and {origin} (in words: its author and its training data)"
        )


def in_words(part: Mapping[str, Any]) -> str:
    """An admitted part's statement, and what was compared. The origin is a user's text."""
    kind, count = KINDS[part["name"]], part.get("shared")
    said = {
        "disjoint": f"{kind.made} other data than the raw set",
        "fixed-before": f"{kind.made} a trusted earlier copy of the raw set: no attack reaches it, but accuracy is "
        "flattered",
        "on-raw": f"{kind.made} the raw set as supplied, which voids the certificate",
        None: f"nobody stated what it was {kind.made}",
    }[part.get("state")]
    if part.get("origin"):
        said = f"stated{', not checked' if count is None else ''}: {said}; from: {part['origin']}"
    if count is None:
        return said
    if part.get("recorded") is None:
        return f"{said}; compared: {count} raw images match those recorded as its own"
    found = compared_in_words(count, part["raw"], part["recorded"], thumbnails=part["near"])
    return f"{said}; compared: {found}"


def notices(parts: Sequence[Mapping[str, Any]]) -> list[str]:
    """Notes on the admitted parts that a reviewer might overlook."""
    found = []
    for part in parts:
        kind, state, count = KINDS[part["name"]], part.get("state"), part.get("shared")
        words, subject = kind.subject, f"{kind.subject[0].upper()}{kind.subject[1:]}"
        if state == "fixed-before":
            found.append(
                f"{subject} {kind.was} {kind.made} a trusted earlier copy of the raw set, as stated: no attack "
                "reaches it, but accuracy is flattered."
            )
        elif part.get("origin") and count is None:
            found.append(f"The origin of {words} is stated, not checked: {state}, from: {part['origin']}.")
        if state is None:
            found.append(
                f"Nobody stated what {words} {kind.was} {kind.made}: a certificate holds only if it does not depend "
                "on the training set as supplied."
            )
        if count:
            found.append(f"{count} raw images are among those that {kind.on()}.")
    return found
