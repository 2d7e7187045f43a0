"""Rule 16 in the reports of drills and comparisons: what is proved is rounded down, what is measured to nearest."""

import csv
import io

from cleanlabel.redteam.comparison import report as comparisons
from cleanlabel.redteam.drill import covered_report, report
from cleanlabel.redteam.drill.rows import Row

ROW = dict.fromkeys(Row.__dataclass_fields__, 0.5) | {
    "targets": 3,
    "models": 20,
    "sigma": 0.25,
    "radius": 0.1196096,
    "radius_limit": 0.2499999,
    "covered": 2 / 3,
    "rewritten": 1234567.5,
    "success": 2 / 3,
    "undefended": 2 / 3,
    "smoothed_success": 2 / 3,
}


def test_a_drills_table_and_csv():
    heading = {"attack": "bullseye", "scenario": "transfer", "data": "digits", "knowledge": "white-box", "bound": "b"}
    drill = heading | {"adaptive": False, "images": 9, "poisons": 2, "settings": "", "rows": [ROW]}
    said = report.tables([drill])
    assert "0.11, median of the targets; up to 0.24 (m = 20)" in said
    assert "66.7 %" in said  # success is measured
    (row,) = csv.DictReader(io.StringIO(report.as_csv([drill])))
    assert float(row["radius"]) == 0.119609
    assert float(row["radius_limit"]) == 0.249999
    assert float(row["covered"]) == 0.666666
    assert row["success"] == "0.666667"


def test_the_table_of_what_is_covered():
    cells = covered_report._sigma(ROW)
    assert cells[2:7] == ["67 %", "67 %", "66 %", "0.11 (up to 0.24)", "1234567.5"]
    target = {"setup": "s", "sigma": 0.25, "poisons": 2, "joint_l2": 1.0, "radius": 1.9999996, "rewritten": 3}
    found = covered_report._target(target | {"covered": 0.999, "right": 1, "undefended": 1.0, "success": 0.0})
    assert found[4:7] == ["1.99", "3", "99 %"]


def test_a_comparisons_row():
    row = dict.fromkeys(comparisons.Row.__dataclass_fields__, 0.5) | {"defence": "d", "targets": 1, "removed": 0}
    row |= {"insertions": 2.5, "insertions_test": 3.0, "radius": 0.1199, "radius_test": 0.2199, "peak_megabytes": None}
    assert comparisons._cells(row)[-2:] == ["2.5 (3)", "0.11 (0.21)"]
