"""Triggers: the authors' pixels, the place, the amplitude, and what does not fit."""

import numpy as np
import pytest

from cleanlabel.redteam.threat.triggers import Trigger
from cleanlabel.sanitize.errors import InputError

GREY = np.full((2, 8, 8, 3), 100, dtype=np.uint8)
RIGHT = np.array([[0, 0, 1], [0, 1, 0], [1, 0, 1]])
"""Turner et al.'s copy in the right corners as their code lists it (2019), white 1, from the top."""


def test_the_checkerboard_in_the_corner_is_the_authors():
    marked = Trigger().put(GREY)
    assert (marked[:, -3:, -3:] == 255 * RIGHT[..., None]).all()
    assert (np.delete(marked, np.s_[-3:], axis=1) == 100).all()
    assert (np.delete(marked, np.s_[-3:], axis=2) == 100).all()


def test_the_checkerboard_in_all_corners_is_the_authors():
    marked = Trigger(place="corners").put(GREY)[0, ..., 0]
    left = RIGHT[:, ::-1]
    for rows in (np.s_[:3], np.s_[-3:]):  # top and bottom are alike, left and right are mirrored
        assert (marked[rows, -3:] == 255 * RIGHT).all()
        assert (marked[rows, :3] == 255 * left).all()
    assert (marked != 100).sum() == 36


def test_a_reduced_amplitude_adds_and_subtracts_as_much():
    change = Trigger(amplitude=32 / 255).put(GREY)[0, -3:, -3:, 0].astype(int) - 100
    assert (change == np.where(RIGHT == 1, 32, -32)).all()


def test_a_reduced_amplitude_stays_within_pixel_values():
    assert set(Trigger(amplitude=0.5).put(np.full((1, 4, 4, 1), 250, dtype=np.uint8))[0, 1:, 1:, 0].flat) == {255, 122}


@pytest.mark.parametrize("place", ["bottom-right", "bottom-left", "top-right", "top-left", "corners"])
def test_the_mask_is_what_the_trigger_changes(place):
    trigger = Trigger(size=2, place=place, offset=1, pattern="white")
    changed = (trigger.put(GREY)[0] != GREY[0]).any(axis=2)
    assert (trigger.mask((8, 8, 3)) == changed).all()


def test_a_random_place_differs_between_images_and_follows_from_the_seed():
    trigger = Trigger(size=2, place="random", pattern="noise")
    many = np.full((20, 8, 8, 3), 100, dtype=np.uint8)
    first = trigger.put(many, seed=3)
    assert (first == trigger.put(many, seed=3)).all()
    assert (first != trigger.put(many, seed=4)).any()
    places = {tuple(np.argwhere((image != 100).any(axis=2))[0]) for image in first}
    assert len(places) > 5
    assert all((image != 100).any(axis=2).sum() == 4 for image in first)


def test_the_tensor_holds_the_same_pixels():
    pixels = Trigger().tensor(GREY)
    assert (pixels.permute(0, 2, 3, 1).numpy() * 255).round().astype(np.uint8).tolist() == Trigger().put(GREY).tolist()


def test_the_images_given_are_left_alone():
    images = GREY.copy()
    Trigger().put(images)
    assert (images == GREY).all()


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"size": 9}, r"9x9 pixels, 0 from the border, is larger than the image \(8x8\); make it smaller"),
        ({"size": 3, "offset": 6}, "6 from the border, is larger than the image"),
        ({"size": 9, "place": "random"}, "larger than the image"),
        ({"size": 5, "place": "corners", "offset": 2}, "larger than the image"),
    ],
)
def test_a_trigger_larger_than_the_image_is_refused(settings, sentence):
    with pytest.raises(InputError, match=sentence):
        Trigger(**settings).put(GREY)
    with pytest.raises(InputError, match=sentence):
        Trigger(**settings).mask((8, 8, 3))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"pattern": "star"}, "pattern 'star' is unknown; choose one of checkerboard, noise, white"),
        ({"place": "centre"}, "place 'centre' is unknown; choose one of bottom-right"),
        ({"size": 0}, "size 0, offset 0, amplitude 1: out of range"),
        ({"amplitude": 0.0}, "amplitude 0: out of range"),
    ],
)
def test_what_is_no_trigger_is_refused(settings, sentence):
    with pytest.raises(InputError, match=sentence):
        Trigger(**settings)
