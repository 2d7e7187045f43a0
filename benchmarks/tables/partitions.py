"""One ensemble against ensembles on blocks (`benchmarks.frontiers`, `benchmarks.chooser`)."""

from benchmarks.tables.records import Record, grid, limit, paragraph, read, share, where, with_source

COLUMNS = {
    ("digits", "mlp"): "digits `mlp`",
    ("digits", "frozen"): "digits `frozen`",
    ("fashion-mnist", "components"): "Fashion `components`",
    ("fashion-mnist", "twin"): "Fashion `twin`",
    ("cifar10", "twin"): "CIFAR-10 `twin`",
}
TITLES = {
    ("digits", "mlp"): "digits, 800, MLP from scratch",
    ("digits", "frozen"): "digits, 800, frozen features",
    ("fashion-mnist", "twin"): "Fashion-MNIST, 10,000, frozen features (`twin`)",
    ("cifar10", "twin"): "CIFAR-10, 5,000, frozen features (`twin`)",
}
COMMANDS = {
    "digits": "--sigma .25 .5 1 2 --k 1 2 5 10 20",
    "fashion-mnist": "--root DIR --sigma .5 1 2 4",
    "cifar10": "--root DIR --extractor FILE --sigma .5 .75 1 1.5",
}


def frontier(name: str) -> Record:
    """The record of one set."""
    return read(f"frontiers_{name}")


def pair(name: str, model: str, free: int, radius: str, n: int | None = None) -> Record:
    """The best ensemble and the best blocks at (a, R), of n raw images (all, unless it is given)."""
    record = frontier(name)
    found: Record = record["best"][f"{model}, n = {n or max(record['sizes'])}"][f"{free}"][radius]
    return found


def value(found: Record | None) -> float:
    """Certified accuracy; 0 where nothing is certified."""
    return found["certified"] if found else 0.0


def rival(name: str, model: str, free: int, defence: str) -> Record:
    """The best setting of a rival with a images rewritten."""
    rows = [r for r in frontier(name)["rivals"] if r["model"] == model and r["defence"] == defence]
    return max(rows, key=lambda row: row["certified"][f"{free}"])


def summary() -> str:
    """Certified accuracy at equal cost: one ensemble, blocks, and DPA."""
    lines = []
    for (name, model), title in TITLES.items():
        cells = [
            ", ".join(share(value(pair(name, model, 0, r)[side])) for r in ("0.5", "1")) for side in ("one", "many")
        ]
        cells += [", ".join(share(value(pair(name, model, a, r)["many"])) for r in ("0", "1")) for a in (1, 5)]
        cells.append(", ".join(share(rival(name, model, a, "DPA")["certified"][f"{a}"]) for a in (1, 5)))
        lines.append([title, *cells])
    head = ["raw images, models", "one ensemble, a = 0: R > .5, R > 1", "blocks, a = 0: R > .5, R > 1"]
    head += [f"blocks, a = {a}: R > 0, R > 1" for a in (1, 5)] + ["DPA, R = 0: a = 1, a = 5"]
    table = grid(head, lines)
    for name, flags in COMMANDS.items():
        table = with_source(table, f"frontiers --data {name} {flags}", frontier(name))
    return table


def by_radius() -> str:
    """One ensemble against blocks for each radius, no image rewritten."""
    lines = []
    for radius in (f"{r:g}" for r in frontier("digits")["radii"]):
        lines.append([radius, *(_against(pair(name, model, 0, radius)) for name, model in COLUMNS)])
    return grid(["R", *COLUMNS.values()], lines)


def _against(found: Record) -> str:
    """Both sides, the better one bold; ≈ within two standard errors; a dash where no sigma takes one ensemble there."""
    if found["difference"] is None:
        return f"- / {_cell(found['many'])}"
    one, many = _cell(found["one"]), _cell(found["many"])
    if abs(found["difference"]) <= 2 * found["error"]:
        return f"{one} ≈ {many}"
    return f"{one} / **{many}**" if found["difference"] > 0 else f"**{one}** / {many}"


def _cell(found: Record | None) -> str:
    if found is None:
        return "0"
    settings = ", ".join(f"{found[key]:g}" for key in ("sigma", "k") if key in found)
    return f"{share(found['certified'])} ({settings})"


def by_size() -> str:
    """The difference that blocks make, by the number of raw images."""
    radii, lines = ("0.25", "0.5", "0.75", "1", "1.5", "2"), []
    for (name, model), title in COLUMNS.items():
        sizes = sorted(frontier(name)["sizes"])
        for n in sizes if len(sizes) > 1 else []:
            of = [pair(name, model, 0, r, n) for r in radii]
            cells = ["-" if f["difference"] is None else f"{f['difference']:+.3f} ± {f['error']:.3f}" for f in of]
            lines.append([title, f"{n:,}", *cells])
    return grid(["set, model", "n", *(f"R > {r}" for r in radii)], lines)


def by_images() -> str:
    """What blocks certify with images rewritten at will, beside DPA and ROE."""
    radii, lines = ("0", "0.5", "1", "2"), []
    for (name, model), title in COLUMNS.items():
        for a in frontier(name)["frees"][1:]:
            cells = [_cell(pair(name, model, a, r)["many"]) for r in radii]
            for defence in ("DPA", "ROE"):
                row = rival(name, model, a, defence)
                cells.append(f"{share(row['certified'][f'{a}'])} ({row['k']})")
            lines.append([title, f"{a}", *cells])
    return grid(["set, model", "a", *(f"R > {r}" for r in radii), "DPA (k)", "ROE (k)"], lines)


def forecasts() -> str:
    """How far the chooser's forecasts were off."""
    record = read("chooser")
    rows = [row for row in record["rows"] if row["measured"] or row["accuracy"]]
    off = [abs(row["accuracy"] - row["measured"]) for row in rows]
    lost = [value for value in record["lost_by_the_choice"] if value]
    worst = f", at most {limit(max(lost))} was lost by it" if lost else ""
    return paragraph(
        f"The forecasts were off by {limit(sum(off) / len(off))} on average and by {limit(max(off))} at most "
        f"({len(rows)} of {len(record['rows'])} combinations that certify anything; {record['inside']} of "
        f"{record['of']} measured values lay in the interval). The choice was the best for "
        f"{len(record['lost_by_the_choice']) - len(lost)} of {len(record['lost_by_the_choice'])} targets{worst} "
        f"(`python -m benchmarks.chooser`, {where(record)})."
    )


MADE = {
    "frontiers": summary,
    "frontiers-radii": by_radius,
    "frontiers-sizes": by_size,
    "frontiers-images": by_images,
    "frontiers-five-rewritten": lambda: share(value(pair("fashion-mnist", "twin", 5, "1")["many"])),
    "chooser": forecasts,
}
