"""The model card of a registered version: how it was trained, what is certified, and what is not."""

from typing import Any

from cleanlabel.flows.certificate.gate import Verdict
from cleanlabel.flows.certificate.influences import influence_of
from cleanlabel.flows.certificate.partitions import partitions_of
from cleanlabel.flows.certificate.reviews import MOST
from cleanlabel.flows.certificate.wording import attempt_in_words, attempt_notices, escaped, title
from cleanlabel.flows.report import influences
from cleanlabel.flows.report.partitions import costs_in_words, partition_in_words, sentences
from cleanlabel.flows.report.tables import grid_table, table, trigger_table
from cleanlabel.models.plan import parts_of
from cleanlabel.models.rounding import down_text, exact, up_text
from cleanlabel.sanitize.door import in_words
from cleanlabel.sanitize.door import notices as door_notices

SOURCES = {
    "os": "256 bits from the operating system, drawn after the raw set was fixed",
    "fixed": "fixed, known beforehand: for tests only",
}
FOR_REVIEWS = 500
"""Characters of a description that stay free for the history of its reviews."""
LEFT_OUT = ("table of changed images", "assumptions", "recipe", "notes on origins", "other tables")
"""What a card leaves out where it would not fit, in this order."""
NOT_DENOISED = "none: the noise is not removed"


def parts_in_words(c: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Name, statement with what was compared, and digest of everything that the one door admitted."""
    parts = parts_of(c)
    missing = [] if any(part["name"] == "denoiser" for part in parts) else [("denoiser", NOT_DENOISED, "")]
    return missing + [(part["name"], in_words(part), part["digest"] or "") for part in parts]


def resized_in_words(c: dict[str, Any]) -> str:
    """That the raw images were resized when they were read, if they were."""
    side = c.get("resized_to")
    return f", each image first resized to {side}x{side}: a radius is about the resized pixels" if side else ""


def int8_in_words(int8: dict[str, Any]) -> str:
    """What made a plan's int8 network, and how it runs."""
    made = " and ".join(f"{name} {number}" for name, number in sorted(int8["versions"].items()))
    return f"scales set on {int8['images']} trusted images; {int8['threads']} thread(s) a part of a batch; {made}"


def promise(c: dict[str, Any]) -> str:
    """How often a certificate may be false, and the largest possible radius."""
    if influence_of(c) and not c["sigma"]:
        return "Without noise there is no randomness: the counts hold with certainty. No radius is claimed."
    if influence_of(c):
        return f"A certificate is false with probability at most {up_text(c['level'])}, {c['holds']}."
    section = partitions_of(c)
    models = f"{section['k']} blocks of {c['m']} models each" if section else f"{c['m']} models"
    return (
        f"A certificate is false with probability at most {up_text(c['level'])}, {c['holds']}. The largest radius that "
        f"{models} can certify is {down_text(c['largest_certifiable_radius'])}, rounded down."
    )


def not_covered(c: dict[str, Any]) -> list[str]:
    """What the certificate does not cover."""
    return [
        _images_not_covered(c),
        *([] if c["test_sigma"] else ["changes of the test input (triggers)"]),
        "a denoiser, weights, twin or settings that depend on the raw set as supplied",
        "how often an attack succeeds in practice, which is measured separately",
    ]


def assumptions(c: dict[str, Any]) -> list[str]:
    """What the proof of the certificate assumes."""
    known = (
        "every other ensemble on this raw set is known to this project's ledger, store or git history; attempts made "
        "elsewhere (another machine, another store, a clone or a copy of this project's folder) are unknown and spend "
        "alpha too; a raw set of which an image was added, removed or changed is another one"
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
        f"within {up_text(c.get('noise_distance', 0.0), 2)} of ideal Gaussian noise, subtracted from every bound",
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
    attempt = attempt_in_words(c)
    if c.get("ensembles", 1) > 1:
        attempt += f", one of {c['ensembles']} planned to share alpha"
    if c.get("ledger") == "new":
        attempt += "; the ledger of attempts began with it, so earlier ones are unknown"
    if c.get("ledger") == "copied":
        attempt += "; the ledger of attempts is a copy, so those in the other folder are unknown"
    method = "sums of bounded influences (Chernoff-Hoeffding)" if influence_of(c) else c["method"]
    return f"{method}{chosen}, alpha = {exact(c['alpha'])}, level {up_text(c['level'])} ({attempt})"


def recipe_in_words(c: dict[str, Any]) -> str:
    """Everything that determines training, except the data and the seeds."""
    silent: tuple[str, ...] = () if c["initial_digest"] else ("initial_weights", "initial_provenance")
    return ", ".join(f"{key} {value}" for key, value in c["recipe"].items() if key not in silent)


def card(certificate: dict[str, Any], verdict: Verdict, version: int, seconds: float | None) -> str:
    """The registered version's description, in Markdown, with room for the history of its reviews.

    A database keeps no more than `MOST` characters. What does not fit is left out, and the card says that the review
    page has it.
    """
    for count in range(len(LEFT_OUT) + 1):
        text = _card(certificate, verdict, version, seconds, LEFT_OUT[:count])
        if len(text) <= MOST - FOR_REVIEWS:
            break
    return text


def _card(
    certificate: dict[str, Any], verdict: Verdict, version: int, seconds: float | None, left_out: tuple[str, ...]
) -> str:
    c, few = certificate, 3 if "other tables" in left_out else None
    warned = ([] if "notes on origins" in left_out else door_notices(parts_of(c))) + attempt_notices(c)
    parts = [
        f"# {title(c)}",
        f"**Gate: {'passed' if verdict.passed else 'not passed'}.**",
        _bullets([f"{'✓' if check.passed else '✗'} {check.name}: {check.found}" for check in verdict.checks]),
        *([_bullets([escaped(line) for line in warned])] if warned else []),
        "## What is certified",
        table(c, seconds),
        promise(c),
    ]
    if c["at_images"] and "table of changed images" not in left_out:
        words = "Certified accuracy by the number of changed training images and the change of each in every pixel:"
        parts += [words, grid_table(c)]
    if section := partitions_of(c):
        parts += ["## Images rewritten at will", *sentences(section)[:few]]
    if influence := influence_of(c):
        parts += ["## Images changed at will", *influences.sentences(influence)[:few]]
    if c["at_triggers"] and not few:
        parts += ["Certified accuracy if the test input changes too (a trigger):", trigger_table(c)]
    parts += [
        f"Covers {c['covers']}.",
        f"**Not covered**: {'; '.join(not_covered(c))}.",
        *([] if "assumptions" in left_out else [f"**The proof assumes**: {'; '.join(assumptions(c))}."]),
        *([f"Only the review page has room for this version's {', '.join(left_out)}."] if left_out else []),
        "## How it was made",
        _bullets([line for line in _provenance(c) if not ("recipe" in left_out and line.startswith("recipe: "))]),
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
        f"raw set `{c['raw_digest'][:16]}`{resized_in_words(c)}",
        f"test set of {c['n_test']} images `{c['test_digest'][:16]}`",
        *(
            f"{name}{f' `{digest[:16]}`' if digest else ''}: {escaped(words)}"
            for name, words, digest in parts_in_words(c)
        ),
        f"entropy: {source}; commitment `{c['entropy_commitment'][:16]}`",
        f"plan `{c['plan_digest'][:16]}`, votes root `{c['votes_root'][:16]}`, code `{c['code_digest'][:16]}`",
    ]
    if earlier := c.get("earlier_raw_sets"):
        lines.append(f"earlier raw sets: {earlier['in_words']}")
    if section := partitions_of(c):
        lines.insert(1, f"{partition_in_words(section)}. {costs_in_words(section)}")
    if c["test_sigma"]:
        lines.append(f"noise sigma_x = {c['test_sigma']:g} on test inputs too, one sample per model and input")
    if c.get("int8"):
        lines.append(f"denoised in int8 `{c['int8']['digest'][:16]}`, {escaped(int8_in_words(c['int8']))}")
    return lines


def _bullets(lines: list[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)
