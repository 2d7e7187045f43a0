"""The paper's tables as data, our column beside them, and the page that is made of both."""

import argparse
import importlib.util
import shlex

import pytest

from benchmarks.paper.commands import NAMES, PLACES, arguments, measuring
from benchmarks.paper.ours import SCALES, filled
from benchmarks.paper.page import PAGE, page
from benchmarks.paper.tables import NUMBERS, missing_from, statements, table
from cleanlabel.redteam import compare
from cleanlabel.redteam.__main__ import params_from, parser
from cleanlabel.redteam.attacks import ATTACKS
from cleanlabel.redteam.comparison.report import PAPER
from cleanlabel.redteam.comparison.run import entries_for
from cleanlabel.sanitize.errors import InputError

ROWS = {  # as the paper prints them
    (1, 0): "(93.6)68.8 (93.3)0.0 (92.7)0.0 (90.8)0.0 (87.4)0.0",
    (1, 12): "(93.5)100 (93.3)4.0 (92.6)0.0 (87.5)0.0 (79.2)1.0",
    (2, 0): "(92.3)65.0 (86.5)9.0 (71.9)3.0 (46.0)9.0 (41.3)7.0",
    (3, 7): "(86.6)14.0 (84.1)4.0 (79.0)0.0 (67.7)5.0 (54.0)6.0",
    (4, 1): "431 63 (93.7)25.0 (93.3)0.0",
    (5, 0): "(93.9)7.0 (90.3)96.0 (90.2)10.0 N/A (93.5)   0.0",
    (6, 7): "(67.7)8.0 (53.8)17.5 (43.2)16.5 (35.3)7.5 (28.6)8.5",
    (7, 2): "(58.8)100.0 (57.4)100.0 - (48.7)0.0 -",
}


@pytest.mark.parametrize("number", NUMBERS)
def test_a_table_is_a_whole_of_rates(number):
    asked = table(number)
    assert asked.number == number
    assert asked.runs == 100
    assert len({tuple(line.about.items()) for line in asked.lines}) == len(asked.lines)
    for line in asked.lines:
        assert line.about["attack"] in ATTACKS
        assert list(line.cells) == asked.columns
        assert all(0 <= rate <= 100 for cell in line.cells.values() if cell for rate in cell)


def test_rows_are_as_the_paper_prints_them():
    text = " ".join(ROWS.values())
    absent = missing_from(text)
    for number, place in ROWS:
        assert f"Table {number}: {table(number).lines[place].printed()}" not in absent
    assert f"Table 1: {table(1).lines[1].printed()}" in absent
    assert statements()["models"]["values"] == {"models": 10000, "seconds_a_model": 15, "gpu_days": 1.7}


def test_the_comparison_quotes_the_same_cells():
    of_table_5 = {(line.about["attack"], name): cell for line in table(5).lines for name, cell in line.cells.items()}
    of_table_4 = {(line.about["attack"], "deep-knn"): line.cells["deep-knn"] for line in table(4).lines}
    assert {key: cell for key, cell in (of_table_4 | of_table_5).items() if cell} == PAPER


def test_the_page_in_git_is_the_one_that_the_command_makes():
    assert PAGE.read_text() == page(), "run `python -m benchmarks.paper page`"


def test_our_column_comes_from_the_results():
    ours = filled(1, table(1).lines[2], "cpu-small")
    assert list(ours) == ["0", "0.1", "0.25", "0.5", "1"]
    assert ours["0"].success == 100
    assert ours["0"].same_bound
    assert ours["0"].covers(100.0)
    assert not ours["0"].covers(50.0)
    assert not filled(7, table(7).lines[0], "cpu-small")
    assert not filled(1, table(1).lines[0], "gpu-full")


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", NAMES)
def test_every_table_has_commands_that_their_parsers_accept(name, scale):
    found = measuring(name, scale)
    assert found.commands or found.why
    for command in found.commands:
        words = arguments(command, {place: f"some/{place.lower()}" for place in PLACES})
        if words[0] == "dvc":
            continue
        assert words[:2] == ["python", "-m"]
        assert importlib.util.find_spec(words[2]), command
        if words[2] == "redteam":
            params_from(parser().parse_args(words[3:]))
        elif words[2] == "redteam.compare":
            args: argparse.Namespace = compare.flags().parse_args(words[3:])
            entries_for(args.defences, args.sigma, vars(args)["with"])
            for attack in args.attack:
                compare.drill_params(args, attack)


def test_a_command_says_which_place_is_missing():
    command = measuring("figure1", "gpu-full").commands[0]
    assert shlex.split(command)[4] == "ROOT"
    with pytest.raises(InputError, match="this command needs DENOISER, a diffusers directory .* --denoiser"):
        arguments(command, {"ROOT": "data/incoming"})
    with pytest.raises(InputError, match="'8' is not one of the paper's tables"):
        measuring("8", "cpu-small")
