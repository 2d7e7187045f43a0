"""The README's table of results: what is certified against published attacks comes first."""

import math

from benchmarks.tables import (
    attacks,
    defences,
    ensembles,
    features,
    frozen,
    int8,
    partitions,
    sanitizing,
    scratch,
    speed,
)
from benchmarks.tables.records import Record, percent, read, share, span


def covered_attack() -> str:
    """Whether certificates cover Bullseye Polytope."""
    drill = read("covered_noise-only")["drills"]["bullseye"]
    row = next(row for row in drill["rows"] if row["sigma"] == 0)
    covered = math.floor(sum(entry["covered"] for entry in drill["coverage"] if entry["sigma"] == 0))
    return (
        f"Bullseye Polytope, {drill['poisons']} poisons in {drill['images']:,} CIFAR-10 images, ε = "
        f"{drill['bound'].split()[0]}, public targets, bounded-influence head without noise: "
        f"{covered} of {row['targets']} targets covered; attack "
        f"{percent(row['undefended'])} % → {percent(row['smoothed_success'])} %, accuracy {share(row['accuracy'])} "
        "([table](docs/results/frozen-features.md))"
    )


def reach() -> str:
    """How far sums over frozen features reach on CIFAR-10, beside rivals."""
    record = read("influence-cifar10")
    rows = features.sums(record)
    parts, near = (features.rivals(record, *heads) for heads in (("DPA", "ROE"), ("kNN", "rNN")))
    of = [share(features.changed(each, "rewritten", 25)) for each in (rows, parts, near)]
    return (
        f"CIFAR-10, {record['raw_images']:,} raw images: {share(features.certified(record, rows, 4.0))} certified at "
        f"R > 4. Against 25 rewritten images {of[0]}; partitions have {of[1]}, nearest neighbours {of[2]}, both "
        "without a radius ([table](docs/results/frozen-features.md))"
    )


def frozen_extractor() -> str:
    """Sanitizing against Bullseye, and the rivals that cost nothing."""
    rows = defences.rows_of("bullseye")
    none, ours = rows["none"], rows["sanitize, σ = 0.1"]
    level = [
        r for r in rows.values() if r["name"] != "sanitize" and not r["success"] and r["accuracy"] >= none["accuracy"]
    ]
    return (
        f"Bullseye, ε = 16/255: {percent(none['success'])} % → {percent(ours['success'])} % at σ = .1, accuracy "
        f"{share(none['accuracy'])} → {share(ours['accuracy'])}. {len(level)} rivals stop it at no cost in accuracy "
        "([attacks](docs/results/attacks.md), [rivals](docs/results/defences.md))"
    )


def from_scratch() -> str:
    """Sanitizing against Witches' Brew."""
    rows = defences.rows_of("witches-brew")
    ours = [row["success"] for row in rows.values() if row["name"] == "sanitize"]
    undefended, *others = read("conv")["summary"]
    taken = ", ".join(f"{row['taken']} at σ = {row['sigma']:g}" for row in others)
    last = others[-1]
    return (
        f"**Not an MLP** (2,500 images): {percent(rows['none']['success'])} % → {span(ours)}; DPA: "
        f"{percent(rows['dpa']['success'])} % ([rivals](docs/results/defences.md)). A small conv net (10,000 images): "
        f"{undefended['taken']} of {undefended['targets']} targets → {taken} (p = {scratch.p_value(last['mcnemar'])}), "
        f"accuracy {share(undefended['clean_accuracy'])} → {share(last['clean_accuracy'])} "
        "([from scratch](docs/results/from-scratch.md))"
    )


def adaptive() -> str:
    """Attackers who craft for more than the published victim."""
    rows: dict[float, Record] = attacks.drill("bullseye-adaptive")
    said = [f"{percent(row['success'])} % of {row['targets']} targets at σ = {sigma:g}" for sigma, row in rows.items()]
    return f"He succeeds on {', on '.join(said)}. {frozen.black_box()} ([attacks](docs/results/attacks.md))"


def denoiser() -> str:
    """What the denoiser is worth on digits."""
    ways = read("ensemble")["certified"]
    ours, noise = (share(ways[way]["100"]["0.5"]) for way in ("denoised", "noise only"))
    return (
        f"digits, σ = 1, m = 100, certified at R = .5: {ours} with it, {noise} with the noise left in "
        "([demo](docs/results/demo.md))"
    )


def thousand() -> str:
    """What the largest ensemble certifies."""
    record = read("ensemble")
    _, of = ensembles.largest(record)
    return (
        f"digits, σ = 1: {share(of['0.5'])} at R = .5, {share(of['2'])} at R = 2; "
        f"{record['models_a_minute']['flow']:.0f} models a minute ([models](docs/results/models.md))"
    )


def blocks() -> str:
    """Rewritten images and a radius at once."""
    found = share(partitions.value(partitions.pair("fashion-mnist", "twin", 5, "1")["many"]))
    return (
        f"blocks: {found} certified with five of Fashion-MNIST's 10,000 images rewritten and R = 1 besides "
        "([partitions](docs/results/how-many-and-how-far.md))"
    )


def cost() -> str:
    """Accuracy and time of sanitizing CIFAR-10."""
    raw, ours = (sanitizing.cell("cifar10", sigma) for sigma in ("raw", "0.25"))
    return (
        f"CIFAR-10, small CNN, accuracy {share(raw['test_accuracy'])} on raw images, {share(ours['test_accuracy'])} at "
        f"σ = .25; {ours['images_per_second']:.0f} images/s on 2 cores ([sanitizing](docs/results/sanitizing.md))"
    )


def processors() -> str:
    """Speed of the large denoiser on each kind of processor, and in int8."""
    ratios = {
        words: read(name)["networks"]["cifar10"]["ours_over_published"] for name, words in speed.SANITIZER.items()
    }
    said = ", ".join(f"{ratio:.1f} with {words}" for words, ratio in ratios.items())
    return (
        f"35.7 M denoiser, times the published way's speed: {said}. In 8-bit integers (opt-in) {int8.ratios()} times "
        "float32's ([speed](docs/results/speed.md))"
    )


QUESTIONS = {
    "Do certificates cover a published attack?": covered_attack,
    "How far do frozen features reach?": reach,
    "Does sanitizing stop attacks on frozen extractors?": frozen_extractor,
    "Does it stop Witches' Brew from scratch?": from_scratch,
    "An attacker who crafts through the sanitizer?": adaptive,
    "What is the denoiser worth?": denoiser,
    "What do a thousand models certify?": thousand,
    "How many images *and* how far?": blocks,
    "What does sanitizing cost?": cost,
    "How fast is it on a CPU?": processors,
}


def table() -> str:
    """A line per question, ten at most."""
    lines = [f"| {question} | {answer()} |" for question, answer in QUESTIONS.items()]
    return "\n".join(["| question | answer |", "|---|---|", *lines])


MADE = {"results": table}
