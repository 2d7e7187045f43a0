"""The certificate of a partitioned ensemble in words and tables."""

from typing import Any

from cleanlabel.flows.report.tables import markdown, pivot
from cleanlabel.models.rounding import down_text, exact


def partition_in_words(section: dict[str, Any]) -> str:
    """How the raw set is split."""
    sizes = section["block_sizes"]
    return (
        f"{section['k']} blocks of {sizes['smallest']} to {sizes['largest']} images "
        f"(median {exact(sizes['median'])}), by {section['rule']}"
    )


def costs_in_words(section: dict[str, Any]) -> str:
    """What counts as one rewritten image, and what other changes cost."""
    if not section["stable_ids"]:
        return (
            "An image whose pixels or label are rewritten in place counts once. No image may be added or removed: the "
            "ids are the images' positions, so all later images would be renamed."
        )
    return (
        "An image that is rewritten, relabelled under its id, added or removed counts once; one that is renamed, or "
        "moved to another class's folder, twice."
    )


def most_in_words(section: dict[str, Any]) -> str:
    """The most images that any answer is certified against."""
    most = section["most_rewritten"]
    if not section["frontier"][0]["certified"]:
        return "No answer is certified here."
    if not most:
        return "Answers are certified only where no image is rewritten at will."
    return f"The most images that any answer here is certified against is {most}."


def sentences(section: dict[str, Any]) -> list[str]:
    """The section for the model card: what is certified and against what, then the tables in Markdown."""
    return [
        f"The raw set is split into {partition_in_words(section)}; each block has its own models.",
        f"Certified accuracy by the number of images changed at will, if all others move within a joint l2 radius R. "
        f"{costs_in_words(section)} {most_in_words(section)}",
        frontier_table(section),
        "Certified accuracy by the number of images changed at will, if *every* other image moves by at most this in "
        "every pixel:",
        grid_table(section),
    ]


def frontier_table(section: dict[str, Any]) -> str:
    """One row per number of rewritten images, one column per radius, and the median radius, in Markdown."""
    radii = [row["radius"] for row in section["frontier"][0]["at_radii"]]
    return markdown(
        ["images rewritten", *(f"R = {exact(r)}" for r in radii), "median R"],
        [
            [
                f"{row['rewritten']}",
                *(down_text(cell["certified_accuracy"]) for cell in row["at_radii"]),
                median_of(row),
            ]
            for row in section["frontier"]
        ],
    )


def grid_table(section: dict[str, Any]) -> str:
    """One row per number of rewritten images, one column per epsilon for all the others, in Markdown."""
    columns, rows = pivot(section["grid"], "rewritten", "epsilon_255")
    return markdown(
        ["images rewritten", *(f"others by {exact(e)}/255" for e in columns)],
        [[exact(a), *map(down_text, shares)] for a, shares in rows.items()],
    )


def median_of(row: dict[str, Any]) -> str:
    """A frontier row's median radius, or that there is none."""
    return "none" if row["median_radius"] is None else down_text(row["median_radius"])
