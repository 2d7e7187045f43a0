"""Partitions are disjoint and by content alone, and what holds for their votes holds for their training sets."""

from dataclasses import replace

import numpy as np
import pytest
from filled import filled
from redteam_sets import RECIPE, digit_extractor, digit_sets

from cleanlabel.redteam.defences import defence_named
from cleanlabel.redteam.defences.interface import Context
from cleanlabel.redteam.defences.partitions import partitioned
from cleanlabel.redteam.threat.victims import Victim
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.imageset import ImageSet

HEADS = Victim("transfer", RECIPE, 10, (8, 8, 1), digit_extractor())


def shuffled(raw: ImageSet, seed: int = 1) -> ImageSet:
    return raw.take(np.random.default_rng(seed).permutation(len(raw)))


def contents(raw: ImageSet, parts: int) -> list[list[tuple[bytes, int]]]:
    return [
        [(raw.images[row].tobytes(), int(raw.labels[row])) for row in part.rows] for part in partitioned(raw, parts)
    ]


def test_every_image_is_in_exactly_one_part():
    raw = digit_sets()["raw"]
    rows = [row for part in partitioned(raw, 13) for row in part.rows]
    assert sorted(rows) == list(range(len(raw)))


def test_parts_and_the_order_within_do_not_depend_on_the_order_of_the_set():
    raw = digit_sets()["raw"]
    assert contents(raw, 13) == contents(shuffled(raw), 13)


def test_an_image_inserted_removed_or_relabelled_touches_one_part():
    raw = digit_sets()["raw"]
    before = contents(raw, 13)
    removed = raw.take(np.arange(1, len(raw)))
    relabelled = replace(raw, labels=np.where(np.arange(len(raw)) == 7, (raw.labels + 1) % 10, raw.labels))
    for changed in (removed, relabelled):
        assert sum(a != b for a, b in zip(before, contents(changed, 13), strict=True)) == 1
    images = raw.images.copy()
    images[0] = 255 - images[0]
    assert sum(a != b for a, b in zip(before, contents(raw.with_images(images), 13), strict=True)) <= 2


@pytest.mark.parametrize("name", ["dpa", "roe"])
def test_answers_and_certificates_do_not_depend_on_the_order_either(name):
    raw, test = digit_sets()["raw"], digit_sets()["test"]
    defence = defence_named(name, {"partitions": "9"})
    one, other = (defence.fit(each, HEADS, Context(), seed) for seed, each in enumerate((raw, shuffled(raw))))
    assert (one.votes(test.images) == other.votes(test.images)).all()
    for a, b in zip(filled(one.insertions(test.images)), other.insertions(test.images), strict=True):
        assert (a == b).all()
    label, tolerated = one.insertions(test.images)
    assert (label == one.answers(test.images)).all()
    assert np.mean(label == test.labels) > 0.85
    assert tolerated.max() >= 3
    assert one.radius is None


@pytest.mark.parametrize("name", ["dpa", "roe"])
def test_as_many_images_as_are_tolerated_change_no_answer(name):
    raw, test = digit_sets()["raw"], digit_sets()["test"]
    defence = defence_named(name, {"partitions": "9"})
    label, tolerated = defence.fit(raw, HEADS, Context(), 0).insertions(test.images)
    generator = np.random.default_rng(0)
    for _ in range(2):
        labels = raw.labels.copy()
        rows = generator.choice(len(raw), 4, replace=False)
        labels[rows] = generator.integers(0, 10, 4)  # four relabelled images touch four parts at most
        worse = defence.fit(replace(raw, labels=labels), HEADS, Context(), 0).answers(test.images)
        assert (worse == label)[tolerated >= 4].all()


def test_members_are_trained_from_scratch_too():
    raw, test = digit_sets()["raw"], digit_sets()["test"]
    victim = Victim("scratch", RECIPE.model_copy(update={"epochs": 20}), 10, (8, 8, 1))
    defended = defence_named("dpa", {"partitions": "3"}).fit(raw, victim, Context(), 0)
    assert defended.votes(test.images).shape == (3, 300)
    assert np.mean(defended.answers(test.images) == test.labels) > 0.8


def test_a_part_that_lacks_classes_never_votes_for_them_and_an_empty_one_for_nobody():
    raw, test = digit_sets()["raw"], digit_sets()["test"]
    few = raw.take(np.arange(24))
    defended = defence_named("dpa", {"partitions": "12"}).fit(few, HEADS, Context(), 0)
    votes = defended.votes(test.images)
    for part, cast in zip(filled(partitioned(few, 12)), votes, strict=True):
        there = {int(few.labels[row]) for row in part.rows} or {-1}
        assert set(cast) <= there
    assert defended.insertions(test.images)[1].min() >= 0


@pytest.mark.parametrize("name", ["dpa", "roe"])
def test_one_partition_an_image_is_refused(name):
    raw = digit_sets()["raw"]
    for parts in (400, 201, 0):
        with pytest.raises(InputError, match=f"partitions={parts} of a set of 400 images leave fewer than two"):
            defence_named(name, {"partitions": str(parts)}).fit(raw, HEADS, Context(), 0)
