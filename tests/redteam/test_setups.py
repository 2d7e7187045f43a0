"""Which target, which bases: as the public benchmark has them, or as a seed draws them."""

import json

import numpy as np
import pytest
from filled import filled

from cleanlabel.redteam.threat.setups import drawn_backdoors, drawn_targets, published_setups, read_setups
from cleanlabel.redteam.threat.triggers import Trigger
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.imageset import ImageSet

ENTRY = {"target_class": 0, "target_index": 3, "base_class": 1, "base_indices": [1, 22, 13]}


@pytest.fixture
def many() -> tuple[ImageSet, ImageSet]:
    """60 training and 24 test images of 3 classes, in turn."""
    images = np.random.default_rng(0).integers(0, 256, (84, 6, 6, 1), dtype=np.uint8)
    whole = ImageSet(images, np.arange(84) % 3, tuple(map(str, range(84))), ("a", "b", "c"))
    return whole.take(np.arange(60)), whole.take(np.arange(60, 84))


def written(tmp_path, content):
    path = tmp_path / "setups.json"
    path.write_text(json.dumps(content))
    return path


def test_the_raw_set_has_the_first_images_of_each_class_and_the_bases_among_them(tmp_path, many):
    train, test = many
    (setup,) = published_setups(read_setups(written(tmp_path, [ENTRY])), train, test, images=24, count=3)
    assert (setup.goal.image == test.images[3]).all()
    assert (setup.goal.label, setup.goal.intended) == (0, 1)
    assert np.bincount(setup.clean.labels).tolist() == [8, 8, 8]
    assert [setup.clean.ids[row] for row in setup.bases] == ["1", "22", "13"]
    others = [i for i in setup.clean.ids if i not in ("1", "22", "13")]
    assert [int(i) for i in others if int(i) % 3 == 1] == [4, 7, 10, 16, 19]
    assert [int(i) for i in others if int(i) % 3 == 0] == list(range(0, 24, 3))


def test_the_whole_split_is_taken_where_no_number_is_given(tmp_path, many):
    train, test = many
    (setup,) = published_setups(read_setups(written(tmp_path, [ENTRY])), train, test, images=0, count=2)
    assert setup.clean is train
    assert setup.bases.tolist() == [1, 22]


@pytest.mark.parametrize(
    ("change", "images", "count", "words"),
    [
        ({"target_index": 99}, 24, 3, "names an index beyond the set's 60 training and 24 test images"),
        ({"base_class": 2}, 24, 3, "does not fit the labels of the set"),
        ({}, 24, 4, "names 3 bases, fewer than 4 poisons; lower --poisons"),
        ({}, 6, 3, "6 raw images are 2 per class, which does not fit 3 bases"),
        ({}, 600, 3, "600 raw images are 200 per class, which does not fit"),
    ],
)
def test_setups_of_another_set_are_refused(tmp_path, many, change, images, count, words):
    with pytest.raises(InputError, match=words):
        list(published_setups(read_setups(written(tmp_path, [ENTRY | change])), *many, images, count))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([{"target_class": 1}], "entry 0 needs target_class, target_index, base_class, base_indices"),
        ({"a": 1}, "entry 0 needs"),
        ([ENTRY | {"base_class": 0}], "its target among the base class"),
        ([ENTRY, ENTRY | {"base_indices": [1, 1]}], "entry 1 has .* a base twice"),
    ],
)
def test_a_file_of_something_else_is_refused(tmp_path, content, words):
    with pytest.raises(InputError, match=words):
        read_setups(written(tmp_path, content))


def test_a_missing_or_damaged_file_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"none.json does not exist"):
        read_setups(tmp_path / "none.json")
    (tmp_path / "x.json").write_bytes(b"\x80\x04")
    with pytest.raises(InputError, match="is not JSON"):
        read_setups(tmp_path / "x.json")


def test_drawn_targets_are_every_test_image_once_with_another_class(many):
    train, test = many
    setups = drawn_targets(train, test, seed=1)
    assert sorted(s.goal.image.tobytes() for s in setups) == sorted(i.tobytes() for i in test.images)
    assert all(s.goal.label != s.goal.intended for s in setups)
    assert {s.goal.intended for s in setups} == {0, 1, 2}
    assert [s.name for s in setups] == [s.name for s in drawn_targets(train, test, seed=1)]
    assert [s.name for s in setups] != [s.name for s in drawn_targets(train, test, seed=2)]


def test_drawn_backdoors_are_every_pair_of_classes_once(many):
    train, _ = many
    pairs = {(s.goal.source, s.goal.intended) for s in drawn_backdoors(train, Trigger(), False, 0)}
    assert pairs == {(a, b) for a in range(3) for b in range(3) if a != b}
    for setup in filled(drawn_backdoors(train, Trigger(), True, 0)):
        assert setup.goal.source is None
        assert len(setup.goal.images) == 40
