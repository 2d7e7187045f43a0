"""Heads on frozen features: bounded influences, votes, and their rivals (`benchmarks.influence`, `.covered`)."""

from collections.abc import Iterable, Sequence

from benchmarks.common.record import RESULTS
from benchmarks.influence.shown import COUNTS
from benchmarks.tables.records import Record, grid, percent, read, share, with_source
from cleanlabel.models.rounding import down_text, exact, percent_down
from cleanlabel.redteam.drill.report import NAMES

SETS = {"fashion-mnist": "Fashion-MNIST", "cifar10": "CIFAR-10"}
COPIES = {"noise only": "noise left in", "denoised": "denoised"}
"""How the copies of a way are called. The clean set (sigma 0) stands beside the noise that is left in."""
FORMS = ("one-sided", "two-sided", "threshold")


def command(record: Record) -> str:
    """The command that makes such a record, with the sigmas and numbers of draws that are in its rows."""
    drawn = {row["sigma"]: row["m"] for row in sums(record)}
    noised = [m for sigma, m in drawn.items() if sigma]
    ms = noised[:1] if len(set(noised)) == 1 else [m if sigma else noised[0] for sigma, m in drawn.items()]
    words = [f"influence --set {record['set']} --root DIR", *(["--unseen"] if record["unseen"] else [])]
    words += ["raw"] if record["unseen"] == "raw" else []
    words += ["--extractor FILE"] if record["set"] == "cifar10" and not record["unseen"] else []
    words += [f"--sigma {_words(drawn)} --m {_words(ms)}"]
    if denoised := {row["sigma"]: row["m"] for row in sums(record, "denoised")}:
        words.append(f"--denoiser DIR --denoised-sigma {_words(denoised)} --denoised-m {max(denoised.values())}")
    if cast := {row["sigma"]: row["m"] for row in votes(record)}:
        words.append(f"--votes-sigma {_words(cast)} --votes-m {max(cast.values())}")
    return " ".join(words)


def _words(numbers: Iterable[float]) -> str:
    return " ".join(f"{number:g}" for number in numbers)


def sums(record: Record, way: str = "noise only", form: str = "threshold") -> list[Record]:
    """The rows of bounded-influence heads of one way and form, by sigma and m."""
    ways = (way, "clean") if way == "noise only" else (way,)
    found = [r for r in record["rows"] if r["head"] == "influence" and r["way"] in ways and r["form"] == form]
    return sorted(found, key=lambda row: (row["sigma"], row["m"]))


def votes(record: Record) -> list[Record]:
    """The rows of votes."""
    return [row for row in record["rows"] if row["head"] == "votes"]


def rivals(record: Record, *heads: str) -> list[Record]:
    """The rows of these rivals, at all of their settings."""
    return [row for row in record["rivals"] if row["head"] in heads]


def certified(record: Record, rows: Sequence[Record], radius: float) -> float:
    """The best certified accuracy of the rows at R > radius."""
    column = record["radii"].index(radius)
    return max((row["certified"][column] for row in rows if "certified" in row), default=0.0)


def changed(rows: Sequence[Record], how: str, images: int) -> float | None:
    """The best certified accuracy of the rows against this number of images rewritten, or relabelled; None: unknown."""
    return max((row[how][COUNTS.index(images)] for row in rows if how in row), default=None)


def settings(rows: Sequence[Record]) -> str:
    """The number of draws of the rows with noise, with sigma where it is not that of most."""
    drawn = [(row["sigma"], row["m"]) for row in rows if row["sigma"]]
    usual = max((m for _, m in drawn), key=[m for _, m in drawn].count)
    others = ", ".join(f"{m} at σ = {sigma:g}" for sigma, m in drawn if m != usual)
    return f"m = {usual}" + (f" ({others})" if others else "")


RADII, CHANGES = (1.0, 4.0, 12.4), (("rewritten", 25), ("relabelled", 25), ("relabelled", 100))


def reach() -> str:
    """How far sums, votes and rivals reach on both sets."""
    records = {name: read(f"influence-{name}") for name in SETS}
    lines = []
    for name, record in records.items():
        groups = [(f"sums, {COPIES[way]}, {settings(rows)}", rows) for way in COPIES if (rows := sums(record, way))]
        groups += [(f"votes, σ = {row['sigma']:g}, m = {row['m']}", [row]) for row in votes(record)]
        groups += [
            ("best partitions (DPA, ROE)", rivals(record, "DPA", "ROE")),
            ("best nearest neighbours", rivals(record, "kNN", "rNN")),
        ]
        title = f"{SETS[name]}, {record['raw_images']:,}"
        for head, rows in groups:
            cells = [share(max(row["accuracy"] for row in rows))]
            cells += [share(certified(record, rows, radius)) for radius in RADII]
            cells += [share(changed(rows, *how) if head[:5] != "votes" else 0.0) for how in CHANGES]
            lines.append([title, head, *cells])
            title = ""
    names = ["raw images", "head", "accuracy", *(f"R > {r:g}" for r in RADII), *(f"{n} {how}" for how, n in CHANGES)]
    table = grid(names, lines, left=2)
    for record in records.values():
        table = with_source(table, command(record), record)
    return table


def by_sigma() -> str:
    """Certified accuracy by radius for each sigma, the sharper bound and in brackets the plain one, on CIFAR-10."""
    record = read("influence-cifar10")
    rows = [(way, row) for way in COPIES for row in sums(record, way) if "certified" in row]
    lines = []
    for way, row in rows:
        pairs = zip(row["certified"], row["page"], strict=True)
        cells = [share(a) if a == b == 0 else f"{share(a)} ({share(b)})" for a, b in pairs]
        lines.append([f"{row['sigma']:g}", f"{row['m']}", COPIES[way], share(row["accuracy"]), *cells])
    head = ["σ", "m", "copies", "accuracy", *(f"R > {r:g}" for r in record["radii"])]
    return with_source(grid(head, lines, left=3), command(record), record)


def by_form() -> str:
    """What the form of the clip is worth, on CIFAR-10."""
    record = read("influence-cifar10")
    lines = []
    for way in COPIES:
        forms = {form: sums(record, way, form) for form in FORMS}
        for rows in zip(*forms.values(), strict=True):
            if "certified" not in rows[0]:
                continue
            cells = [" / ".join(share(certified(record, [row], r)) for row in rows) for r in (0.0, 4.0, 12.4)]
            cells.append(" / ".join(share(changed([row], "relabelled", 100)) for row in rows))
            lines.append([f"{rows[0]['sigma']:g}", f"{rows[0]['m']}", COPIES[way], *cells])
    return grid(["σ", "m", "copies", "R > 0", "R > 4", "R > 12.4", "100 relabelled"], lines, left=3)


def unseen() -> str:
    """Extractors that never saw the raw classes, by set and by whose images the moments are of."""
    records = [read(path.stem) for path in sorted(RESULTS.glob("influence-*-unseen*.json"))]
    changes = (("rewritten", 1), ("rewritten", 25), ("relabelled", 25))
    lines = []
    for record in records:
        moments = "unlabelled images of the raw classes" if record["unseen"] == "raw" else "other classes"
        groups = {
            f"sums, moments of {moments}": sums(record),
            "best partitions (DPA, ROE)": rivals(record, "DPA", "ROE"),
            "best nearest neighbours": rivals(record, "kNN", "rNN"),
        }
        title = f"{SETS[record['set']]}, {record['raw_images']:,}"
        for head, rows in groups.items():
            accuracy = share(max(row["accuracy"] for row in rows))
            lines.append([title, head, accuracy, *(share(changed(rows, *how)) for how in changes)])
            title = ""
    table = grid(["raw images", "head", "accuracy", *(f"{n} {how}" for how, n in changes)], lines, left=2)
    for record in records:
        table = with_source(table, command(record), record)
    return table


def covered() -> str:
    """Which targets of published attacks the certificate covers."""
    record = read("covered_noise-only")
    lines = []
    for drill in record["drills"].values():
        for row in drill["rows"]:
            cells = [NAMES[drill["attack"]], f"{row['targets']}", f"{row['sigma']:g}", f"{100 * row['accuracy']:.1f} %"]
            cells += [f"{percent(row[key])} %" for key in ("undefended", "smoothed_success")]
            cells.append(f"{percent_down(row['covered'], 0)} %")
            radius = down_text(row["radius"], 2) if row["sigma"] else "-"
            lines.append([*cells, radius, exact(row["rewritten"])])
    head = ["attack", "targets", "σ", "clean accuracy", "success, logistic head undefended", "success, this head"]
    head += ["targets covered", "certified R (median)", "images that may be rewritten (median)"]
    words = "covered --root DIR --setups FILE --denoiser DIR --extractor FILE --noise-only"
    return with_source(
        grid(head, lines), words, record, note=f"Its note: {record['note']}." if "note" in record else ""
    )


def norms() -> str:
    """The least and largest joint norm of the poisons that were tried."""
    norms = [one["joint_l2"] for drill in read("covered_noise-only")["drills"].values() for one in drill["coverage"]]
    return f"{min(norms):.1f} to {max(norms):.1f}"


MADE = {
    "influence-reach": reach,
    "influence-cifar10-radii": by_sigma,
    "influence-cifar10-forms": by_form,
    "influence-unseen": unseen,
    "covered": covered,
    "covered-norms": norms,
}
