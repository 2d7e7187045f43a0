"""The pure parts of the benchmark of bounded influences."""

from itertools import combinations, product

import numpy as np
import pytest

from benchmarks.influence.rivals import certified_neighbours, nearest
from benchmarks.influence.sets import of_classes, parts
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.imageset import ImageSet

CLASSES, MEMBERS, MOST = 3, 3, 2
NEAR, FAR = 2.0, -2.0
"""Where a rewritten image may go: nearer or farther than all others."""


def majority(near: np.ndarray, labels: np.ndarray, *, joined: bool) -> int:
    """The label of the MEMBERS nearest images, or of all that are nearer than 0."""
    if joined:
        votes = nearest(near[None].astype(np.float32), labels, CLASSES, [MEMBERS])[0][0]
    else:
        votes = np.bincount(labels[near >= 0], minlength=CLASSES)
    return int(votes.argmax())


def attacked(near: np.ndarray, labels: np.ndarray, images: int, *, keeps: bool, joined: bool) -> set[int]:
    """Every answer after so many images were rewritten, by trying all there are."""
    answers = set()
    options = [(place, label) for place in (NEAR, FAR) for label in range(1 if keeps else CLASSES)]
    for rows in combinations(range(len(near)), images):
        for changes in product(options, repeat=images):
            moved, other = near.copy(), labels.copy()
            for row, (place, label) in zip(rows, changes, strict=True):
                moved[row], other[row] = place, labels[row] if keeps else label
            answers.add(majority(moved, other, joined=joined))
    return answers


@pytest.mark.parametrize("joined", [True, False], ids=["kNN", "rNN"])
def test_no_attack_within_the_neighbours_certificate_changes_the_answer_and_one_beyond_does(joined):
    generator = np.random.default_rng(0)
    beyond = {"relabelled": 0, "rewritten": 0}
    for _ in range(12):
        near, labels = generator.uniform(-1, 1, 7), np.sort(generator.integers(0, CLASSES, 7))
        if joined:
            votes = nearest(near[None].astype(np.float32), labels, CLASSES, [MEMBERS])[0]
        else:
            votes = np.bincount(labels[near >= 0], minlength=CLASSES)[None]
        label, relabelled, rewritten = certified_neighbours(votes, joined=joined)
        assert label[0] == majority(near, labels, joined=joined)
        for way, tolerated in (("relabelled", relabelled[0]), ("rewritten", rewritten[0])):
            keeps = way == "rewritten"
            for images in range(min(tolerated, MOST) + 1):
                assert attacked(near, labels, images, keeps=keeps, joined=joined) == {label[0]}
            if tolerated < MOST:
                beyond[way] += len(attacked(near, labels, tolerated + 1, keeps=keeps, joined=joined)) > 1
    assert min(beyond.values()) > 0


def test_the_k_nearest_are_counted_by_label():
    near = np.array([[0.9, 0.1, 0.8, 0.5], [0.2, 0.2, 0.2, 0.9]], dtype=np.float32)
    two, three = nearest(near, np.array([0, 1, 1, 2]), CLASSES, [2, 3])
    np.testing.assert_array_equal(two, [[1, 1, 0], [1, 0, 1]])
    np.testing.assert_array_equal(three, [[1, 1, 1], [1, 1, 1]])


def some_images(labels: list[int]) -> ImageSet:
    images = np.arange(len(labels), dtype=np.uint8).reshape(-1, 1, 1, 1)
    return ImageSet(images, np.array(labels), tuple(map(str, range(len(labels)))), ("a", "b", "c", "d"))


def test_parts_are_disjoint_and_more_than_there_is_is_refused():
    first, second = parts(some_images([0, 1, 2, 3, 0]), 2, 3)
    assert (first.ids, second.ids) == (("0", "1"), ("2", "3", "4"))
    with pytest.raises(InputError, match="6 images are needed and there are 5; give smaller sets"):
        parts(some_images([0, 1, 2, 3, 0]), 2, 4)


def test_some_classes_become_the_first_ones():
    found = of_classes(some_images([3, 0, 2, 1, 3]), range(2, 4))
    assert found.classes == ("c", "d")
    assert found.labels.tolist() == [1, 0, 1]
    assert found.images.ravel().tolist() == [0, 2, 4]
