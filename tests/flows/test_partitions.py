"""The partitioned certificate in figures and words: hand-checked rows, and its heat map."""

from xml.etree import ElementTree

import numpy as np
import pytest
from imports import ROOT

from cleanlabel.flows.certificate.figures import l2_of
from cleanlabel.flows.certificate.partitions import partition_record
from cleanlabel.flows.report.drawing import heat_map
from cleanlabel.flows.report.partitions import sentences
from cleanlabel.flows.report.tables import pivot
from cleanlabel.models.blocks import ids_are_names
from cleanlabel.models.certificate import ABSTAIN
from cleanlabel.models.params import CertifyParams
from cleanlabel.models.partition import partition_radius
from cleanlabel.models.rounding import down_text
from cleanlabel.sanitize.params import read_params

PARAMS = read_params("certify", CertifyParams, ROOT / "params.yaml")
LABELS = np.array([[0, 0, 0, 0], [0, 0, 0, 1], [1, 1, ABSTAIN, 0], [2, 2, 2, 2]])
RADII = np.array([[0.3] * 4, [0.6] * 4, [0.5, 0.5, 0.0, 0.5], [0.4] * 4])
TRUTH = np.array([0, 0, 1, 0])
SIZES = np.array([30, 10, 20, 40])


def record(*, stable_ids: bool = True) -> dict:
    return partition_record(LABELS, RADII, TRUTH, PARAMS, 64, 3, SIZES, stable_ids=stable_ids)


def test_the_frontier_is_what_a_hand_computes():
    # Point 0: gap 5 against 1 and 2: three blocks, .3 sqrt 3 = .52; one free: gap 3, two blocks, .42; two: one, .3.
    # Point 1: gap 3 against 1 (two blocks), 4 against 2 (two of A, or one of A and 2 others): .6 sqrt 2 = .85; then .6.
    # Point 2: 2 - 1 - 1 + 0 = 0 against 0: abstains. Point 3: wrong, gap 4, two blocks, .57; then .4.
    found = record()
    assert [row["rewritten"] for row in found["frontier"]] == [0, 1, 2]
    assert [row["certified"] for row in found["frontier"]] == [3, 3, 1]
    medians = [row["median_radius"] for row in found["frontier"]]
    assert medians == pytest.approx([0.4 * 2**0.5, 0.3 * 2**0.5, 0.3], abs=1e-6)
    shares = [[cell["certified_accuracy"] for cell in row["at_radii"]] for row in found["frontier"]]
    assert PARAMS.radii == [0.0, 0.25, 0.5, 1.0]
    assert shares == [[0.5, 0.5, 0.5, 0.0], [0.5, 0.5, 0.25, 0.0], [0.25, 0.25, 0.0, 0.0]]
    assert found["most_rewritten"] == 2
    assert found["block_sizes"] == {"smallest": 10, "median": 25.0, "largest": 40}
    assert found == record()


def test_every_other_image_of_the_blocks_that_are_left_may_move():
    columns, rows = pivot(record()["grid"], "rewritten", "epsilon_255")
    assert columns[0] == 0.0
    left = {0: 100, 1: 90, 2: 70}  # without the a smallest of 10, 20, 30, 40
    for a, shares in rows.items():
        label, radius = partition_radius(LABELS, RADII, 3, int(a))
        right = np.where(label == TRUTH, radius, 0.0)
        assert shares == [float(np.mean(right > left[a] ** 0.5 * l2_of(e, 64))) for e in columns]
    assert [shares[0] for shares in rows.values()] == [0.5, 0.5, 0.25]
    assert all(shares[-1] == 0.0 < max(s[-2] for s in rows.values()) for shares in rows.values())


def test_where_nothing_is_certified_and_where_one_block_is_all_there_is():
    nothing = partition_record(
        np.full((2, 3), ABSTAIN), np.zeros((2, 3)), TRUTH[:2], PARAMS, 64, 3, np.array([1, 0, 2]), stable_ids=True
    )
    assert nothing["frontier"][0] | {"at_radii": []} == {
        "rewritten": 0, "certified": 0, "median_radius": None, "at_radii": []
    }  # fmt: skip
    assert [row["epsilon_255"] for row in nothing["grid"]] == [0.0]
    assert "No answer is certified here." in sentences(nothing)[1]
    one = partition_record(LABELS[:, :1], RADII[:, :1], TRUTH, PARAMS, 64, 3, np.array([9]), stable_ids=True)
    assert one["most_rewritten"] == 0
    many = partition_record(
        np.zeros((1, 60), int), np.ones((1, 60)), TRUTH[:1], PARAMS, 64, 2, np.full(60, 3), stable_ids=True
    )
    rows = [row["rewritten"] for row in many["frontier"]]
    assert (len(rows), rows[0], rows[-1]) == (10, 0, 30)


def test_images_without_stable_ids_are_covered_against_rewriting_alone():
    assert ids_are_names(("a/0.png", "a/1.png"))
    assert not ids_are_names(("0", "1", "2"))
    assert record()["one_image_costs"] == {"rewritten": 1, "added": 1, "removed": 1, "renamed": 2}
    assert record(stable_ids=False)["one_image_costs"] == {"rewritten": 1}
    assert "No image may be added or removed" in sentences(record(stable_ids=False))[1]


def test_the_heat_map_shows_every_value():
    columns, rows = pivot(record()["grid"], "rewritten", "epsilon_255")
    svg = ElementTree.fromstring(heat_map(columns, rows, "moved", "rewritten", 350))
    cells = [one.text for one in svg.iter("text") if one.get("class") == "cell"]
    assert cells == [down_text(share) for shares in rows.values() for share in shares]
    boxes = list(svg.iter("rect"))
    assert len(boxes) == len(cells)
    assert all(float(box.get("x")) >= 0 and float(box.get("x")) + float(box.get("width")) <= 350 for box in boxes)
    assert [one.get("class") for one in svg.iter("g")] == [f"h{round(float(cell) * 10)}" for cell in cells]
