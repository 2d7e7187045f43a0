"""Which copies the comparison of two sets finds (`benchmarks.overlap`)."""

from benchmarks.tables.records import grid, read, with_source
from cleanlabel.models.rounding import percent_down

TITLES = {"digits": "digits, 8×8", "fashion-mnist": "Fashion-MNIST, 28×28", "cifar10": "CIFAR-10, 32×32"}


def copies() -> str:
    """The share of changed images that are found, in %, by change and set. Rounded down: 100 means all."""
    record = read("overlap")
    sets = record["changes"]
    rows = zip(*(sets[name]["found"] for name in TITLES), strict=True)
    lines = [[row[0]["change"], *(percent_down(of["share"], 0) for of in row)] for row in rows]
    sizes = "; ".join(f"{title}: {sets[n]['changed']:,} among {sets[n]['among']:,}" for n, title in TITLES.items())
    note = f"Found in %, rounded down, each with its own original as partner. Changed images, among originals: {sizes}."
    return with_source(
        grid(["change of every image", *TITLES.values()], lines), "overlap --root DIR", record, note=note
    )


def apart() -> str:
    """How many images of disjoint splits are taken for copies."""
    record = read("overlap")
    lines = []
    for row in record["apart"]:
        counts = row["ours"], row["theirs"], row["exact"], row["found"] - row["exact"]
        lines.append([row["words"], *(f"{count:,}" for count in counts), f"{row['core_seconds']:.1f} s"])
    head = ["compared", "images", "with", "exact copies", "taken for near copies", "processor time"]
    return with_source(grid(head, lines), "overlap --root DIR", record)


MADE = {"copies-found": copies, "copies-apart": apart}
