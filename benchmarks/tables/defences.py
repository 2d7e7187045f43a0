"""Sanitizing beside other defences (`benchmarks.compare`, `benchmarks.surviving`)."""

from benchmarks.tables.records import Record, grid, limit, read, success, with_source
from cleanlabel.models.rounding import exact

TITLES = {
    "noise-only": "noise only",
    "deep-knn": "Deep k-NN",
    "dp-sgd": "DP-SGD (ε = 1, δ = .05)",
    "gradient-noise": "gradient noise",
    "adversarial-training": "adversarial training (PGD-7, 4/255)",
    "adversarial-poisoning": "adversarial poisoning",
    "friends": "FrieNDs",
    "dpa": "Deep Partition Aggregation (50)",
    "roe": "Run-Off Election (50)",
    "spectral": "spectral signatures",
    "activation-clustering": "activation clustering",
}
ATTACKS = ("bullseye", "witches-brew")
COMMAND = "compare --root DIR --setups FILE --denoiser DIR --extractor FILE"


def rows_of(attack: str) -> dict[str, Record]:
    """A comparison's rows, by what the defence is called there."""
    return {row["defence"]: row for row in read(f"compare_{attack}")["rows"]}


def side_by_side() -> str:
    """Each defence against both attacks."""
    both = [rows_of(attack) for attack in ATTACKS]
    lines = []
    for defence in dict.fromkeys(name for rows in reversed(both) for name in rows):
        found = [rows.get(defence) for rows in both]
        cells = [cell for row in found for cell in (_cells(row) if row else ["-"] * 4)]
        lines.append([_title(next(row for row in found if row)), *cells, _counts(found)])
    head = ["success [95 %]", "accuracy", "sum", "× time"]
    first = [f"{where}: {head[0]}" for where in ("Bullseye, frozen", "Witches' Brew, scratch")]
    names = ["", first[0], *head[1:], first[1], *head[1:], "inserted or removed: frozen; scratch"]
    records = [read(f"compare_{attack}") for attack in ATTACKS]
    return with_source(grid(names, lines), COMMAND, *records, note="Beside other work, which the times share.")


def _title(row: Record) -> str:
    name, _, sigma = row["defence"].partition(",")
    title = "**sanitize**" if name == "sanitize" else TITLES.get(name, name)
    return f"{title},{sigma}" if sigma else title


def _cells(row: Record) -> list[str]:
    ratio = f"{row['ratio']:.1f}" if row["ratio"] < 9.95 else f"{row['ratio']:.0f}"
    return [success(row), f"{100 * row['accuracy']:.1f}", f"{100 * row['loss']:.1f}", ratio]


def _counts(found: list[Record | None]) -> str:
    known = [row for row in found if row and row["insertions"] is not None]
    return "; ".join(f"{exact(row['insertions'])} ({exact(row['insertions_test'])})" for row in known) or "-"


def surviving() -> str:
    """How much of the poisons' change one sanitizing keeps."""
    record = read("surviving")
    names = {"bullseye-transfer": "Bullseye", "witches-brew-scratch": "Witches' Brew"}
    lines = [
        [names[row["poisons"]], f"{row['targets']}", f"{row['sigma']:g}", f"{row['joint_l2']:.1f}", limit(row["kept"])]
        for row in record["rows"]
    ]
    for line, row in zip(lines, record["rows"], strict=True):
        line.append(f"{row['joint_l2'] / row['sigma']:.0f}")
    head = ["poisons", "targets", "σ", "joint ℓ2", "share of the change that is kept", "joint ℓ2 / σ"]
    return with_source(grid(head, lines), "surviving --denoiser DIR --drill DIR DIR --draws 1", record)


MADE = {"defences": side_by_side, "surviving": surviving}
