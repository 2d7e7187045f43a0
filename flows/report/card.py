"""The model card of a registered version: how it was trained, what is certified, and what is not."""

from typing import Any

from cleanlabel.flows.certificate.gate import Verdict
from cleanlabel.flows.certificate.influences import influence_of
from cleanlabel.flows.certificate.partitions import partitions_of
from cleanlabel.flows.certificate.wording import escaped, title
from cleanlabel.flows.report import influences
from cleanlabel.flows.report.partitions import costs_in_words, partition_in_words, sentences
from cleanlabel.flows.report.tables import grid_table, table, trigger_table

STATES = {
    "disjoint": "trained on other data than the raw set",
    "fixed-before": "trained on a trusted earlier copy of the raw set: no attack reaches it, but accuracy is flattered",
    None: "none: the noise is not removed",
}
SOURCES = {
    "os": "256 bits from the operating system, drawn after the raw set was fixed",
    "fixed": "fixed, known beforehand: for tests only",
}
NAMES = {"denoiser": "the denoiser", "initial": "the initial weights"}


def seen_in_words(c: dict[str, Any], name: str) -> str:
    """The stated origin of the `denoiser` or `initial` weights, and what was compared. The origin is a user's text."""
    state, origin, shared = (c.get(f"{name}_{key}") for key in ("state", "origin", "shared"))
    said = STATES[state]
    if origin:
        said = f"stated{', not checked' if shared is None else ''}: {said}; from: {origin}"
    if shared is None:
        return said
    found = f"{shared} raw images are" if shared > 1 else f"{'one raw image is' if shared else 'no raw image is'}"
    how = "image by image, including near copies" if name == "denoiser" else "image by image, exact copies only"
    return f"{said}; compared {how}: {found} among those recorded as its training images"


def int8_in_words(int8: dict[str, Any]) -> str:
    """What made a plan's int8 network, and how it runs."""
    made = " and ".join(f"{name} {number}" for name, number in sorted(int8["versions"].items()))
    return f"scales set on {int8['images']} trusted images; {int8['threads']} thread(s) a part of a batch; {made}"


def provenance_notices(c: dict[str, Any]) -> list[str]:
    """Notes on the denoiser and the weights that a reviewer might overlook."""
    found = []
    for name, words in NAMES.items():
        state, origin, shared = (c.get(f"{name}_{key}") for key in ("state", "origin", "shared"))
        subject = f"{words[0].upper()}{words[1:]}"
        if state == "fixed-before":
            found.append(
                f"{subject} is stated to come from a trusted earlier copy of the raw set, which no attack reaches; "
                "accuracy is flattered."
            )
        if origin and shared is None:
            found.append(f"The training data of {words} is stated, not checked: {state}, from: {origin}.")
        if shared:
            found.append(f"{shared} raw images are among the training images of {words}.")
    return found


def promise(c: dict[str, Any]) -> str:
    """How often a certificate may be false, and the largest possible radius."""
    if influence_of(c) and not c["sigma"]:
        return "Without noise there is no randomness: the counts hold with certainty. No radius is claimed."
    if influence_of(c):
        return f"A certificate is false with probability at most {c['level']:.3g}, {c['holds']}."
    section = partitions_of(c)
    models = f"{section['k']} blocks of {c['m']} models each" if section else f"{c['m']} models"
    return (
        f"A certificate is false with probability at most {c['level']:.3g}, {c['holds']}. No radius above "
        f"{c['largest_certifiable_radius']:.3f} can be certified with {models}."
    )


def not_covered(c: dict[str, Any]) -> list[str]:
    """What the certificate does not cover."""
    return [
        _images_not_covered(c),
        *([] if c["test_sigma"] else ["changes of the test input (triggers)"]),
        "a denoiser or weights that were trained on the raw set as supplied",
        "how often an attack succeeds in practice, which is measured separately",
    ]


def assumptions(c: dict[str, Any]) -> list[str]:
    """What the proof of the certificate assumes."""
    known = (
        "every other ensemble on this raw set is known to this project's ledger, store or git history; attempts made "
        "elsewhere (another machine, another store) are unknown and spend alpha too"
    )
    fixed = [
        "the extractor and the trusted images were fixed before the raw set and do not depend on it",
        "an image's features depend on that image alone; if images are added or removed, the others change their "
        "places in a batch, which changes their features in the last bit at most",
    ]
    if influence_of(c) and not c["sigma"]:
        return fixed
    return [
        *(fixed if influence_of(c) else []),
        "the noise is drawn in whole pixel values, so that rounding is covered; in total variation a draw of it is "
        f"within {c.get('noise_distance', 0.0):.2g} of ideal Gaussian noise, which is subtracted from every bound",
        "without the entropy, Philox streams keyed by SHA-256 cannot be distinguished from random bits",
        "alpha bounds the chance, over these draws, that a certificate is false",
        known,
    ]


def _images_not_covered(c: dict[str, Any]) -> str:
    if influence_of(c):
        return "more images changed at will than stated" + (
            "" if c["sigma"] else "; any radius, since there is no noise"
        )
    section = partitions_of(c)
    if section is None:
        return "images added, removed or relabelled"
    most = section["most_rewritten"]
    rewritten = f"more than {most} images rewritten at will" if most else "images rewritten at will"
    return f"{rewritten}, added or removed" if section["stable_ids"] else f"{rewritten}; any image added or removed"


def audit_command(version: int) -> str:
    """The command that recomputes a version's certificate from its runs and retrains three of its models."""
    return f"python -m flows.audit --version {version} --replay 3"


def models_in_words(c: dict[str, Any]) -> str:
    """How the number of models was decided, and how missing ones are counted."""
    missing = f"; {len(c['missing_draws'])} missing, counted against the answer" if c["missing_draws"] else ""
    return f"{c['rule']}{missing}"


def level_in_words(c: dict[str, Any]) -> str:
    """How the class is chosen, and the level of its bound."""
    chosen = f", class chosen by {c['selection']} further models" if c["selection"] else ""
    attempt = f"attempt {c['attempt'] + 1} on this raw set" if c["attempt"] else "first attempt"
    if c.get("ensembles", 1) > 1:
        attempt += f", one of {c['ensembles']} planned to share alpha"
    if c.get("ledger") == "new":
        attempt += "; the ledger of attempts began with it, so earlier ones are unknown"
    method = "sums of bounded influences (Chernoff-Hoeffding)" if influence_of(c) else c["method"]
    return f"{method}{chosen}, alpha = {c['alpha']:g}, level {c['level']:.3g} ({attempt})"


def recipe_in_words(c: dict[str, Any]) -> str:
    """Everything that determines training, except the data and the seeds."""
    silent: tuple[str, ...] = () if c["initial_digest"] else ("initial_weights", "initial_provenance")
    return ", ".join(f"{key} {value}" for key, value in c["recipe"].items() if key not in silent)


def card(certificate: dict[str, Any], verdict: Verdict, version: int, seconds: float | None) -> str:
    """The registered version's description, in Markdown."""
    c = certificate
    warned = provenance_notices(c)
    parts = [
        f"# {title(c)}",
        f"**Gate: {'passed' if verdict.passed else 'not passed'}.**",
        _bullets([f"{'✓' if check.passed else '✗'} {check.name}: {check.found}" for check in verdict.checks]),
        *([_bullets([escaped(line) for line in warned])] if warned else []),
        "## What is certified",
        table(c, seconds),
        promise(c),
    ]
    if c["at_images"]:
        words = "Certified accuracy by the number of changed training images and the change of each in every pixel:"
        parts += [words, grid_table(c)]
    if section := partitions_of(c):
        parts += ["## Images rewritten at will", *sentences(section)]
    if influence := influence_of(c):
        parts += ["## Images changed at will", *influences.sentences(influence)]
    if c["at_triggers"]:
        parts += ["Certified accuracy if the test input changes too (a trigger):", trigger_table(c)]
    parts += [
        f"Covers {c['covers']}.",
        f"**Not covered**: {'; '.join(not_covered(c))}.",
        f"**The proof assumes**: {'; '.join(assumptions(c))}.",
        "## How it was made",
        _bullets(_provenance(c)),
        "## How to check it",
        f"`{audit_command(version)}` computes all of this again from the runs, and retrains three models.",
        "The review page, with pictures: `index.html` among this version's artifacts, beside its certificate.",
    ]
    return "\n\n".join(parts)


def _provenance(c: dict[str, Any]) -> list[str]:
    source = SOURCES[c["entropy_source"]]
    source = source if c["entropy_source"] == "os" else f"**{source}**"
    lines = [
        f"{models_in_words(c)}; noise sigma = {c['sigma']:g} in [0,1] pixel units on every training image",
        f"method {level_in_words(c)}",
        f"recipe: {recipe_in_words(c)}",
        f"raw set `{c['raw_digest'][:16]}`, test set of {c['n_test']} images `{c['test_digest'][:16]}`",
        f"denoiser `{(c['denoiser_digest'] or 'none')[:16]}`, {escaped(seen_in_words(c, 'denoiser'))}",
        f"entropy: {source}; commitment `{c['entropy_commitment'][:16]}`",
        f"plan `{c['plan_digest'][:16]}`, votes root `{c['votes_root'][:16]}`, code `{c['code_digest'][:16]}`",
    ]
    if section := partitions_of(c):
        lines.insert(1, f"{partition_in_words(section)}. {costs_in_words(section)}")
    if c["test_sigma"]:
        lines.append(f"noise sigma_x = {c['test_sigma']:g} on test inputs too, one sample per model and input")
    if c["initial_digest"]:
        lines.append(f"initial weights `{c['initial_digest'][:16]}`, {escaped(seen_in_words(c, 'initial'))}")
    if c.get("int8"):
        lines.append(f"denoised in int8 `{c['int8']['digest'][:16]}`, {escaped(int8_in_words(c['int8']))}")
    return lines


def _bullets(lines: list[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)
