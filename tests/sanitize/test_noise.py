"""Rules 4 and 5: noise that nobody could foresee, a function of (entropy, role, draw, image id) and nothing else."""

import itertools

import numpy as np
import pytest
from filled import filled
from hypothesis import given
from hypothesis import strategies as st
from tiny import FIXED

from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.noise import (
    LARGEST_SIGMA,
    Entropy,
    check_sigma,
    draw_entropy,
    pixel_noise,
    stream_key,
    training_seed,
)

IDS = tuple(f"cat/{i:03d}.png" for i in range(40))


@given(st.lists(st.sampled_from(IDS), min_size=1, max_size=8, unique=True))
def test_an_images_noise_does_not_depend_on_its_companions_or_its_place(chosen):
    alone = {i: pixel_noise(FIXED, "noise", 3, [i], (4, 4, 3), 1.0)[0] for i in chosen}
    together = pixel_noise(FIXED, "noise", 3, chosen, (4, 4, 3), 1.0)
    for row, image_id in zip(filled(together), chosen, strict=True):
        np.testing.assert_array_equal(row, alone[image_id])


def test_no_two_images_draws_or_roles_share_a_block_of_randomness():
    streams = itertools.product(("noise", "test-noise", "train", "public-noise"), range(8), ("", *map(str, range(60))))
    words = [np.random.Philox(key=stream_key(FIXED, r, d, i)).random_raw(256) for r, d, i in streams]
    assert np.unique(np.concatenate(words)).size == len(words) * 256  # a shifted stream would repeat words


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((FIXED, "noise", 0, "7"), (FIXED[::-1], "noise", 0, "7")),
        ((FIXED, "noise", 0, "7"), (FIXED, "test-noise", 0, "7")),
        ((FIXED, "noise", 0, "7"), (FIXED, "train", 0, "7")),
        ((FIXED, "noise", 0, "7"), (FIXED, "public-noise", 0, "7")),
        ((FIXED, "noise", 0, "7"), (FIXED, "noise", 1, "7")),
        ((FIXED, "noise", 1, "1"), (FIXED, "noise", 11, "")),
        ((FIXED, "noise", 0, "a/b"), (FIXED, "noise", 0, "a/b ")),
    ],
)
def test_each_of_the_four_changes_the_key(one, other):
    assert stream_key(*one).tolist() != stream_key(*other).tolist()


def test_different_images_and_pixels_are_uncorrelated():
    rows = pixel_noise(FIXED, "noise", 0, [str(i) for i in range(64)], (4096,), 0.25)
    off_diagonal = np.corrcoef(rows)[~np.eye(64, dtype=bool)]
    assert np.abs(off_diagonal).max() < 6 / np.sqrt(4096)


def test_a_replay_years_later_gives_the_same_noise():
    values = pixel_noise(FIXED, "noise", 5, ["cat/001.png"], (2, 2, 1), 0.25)
    assert values.ravel().tolist() == PINNED
    entropy = bytes(range(32))
    assert training_seed(entropy, 3) == 7359522666482197483
    assert training_seed(entropy, 3, 2) == 4235270997167284950
    assert training_seed(entropy, 0, 0) == 7996733851231017603
    assert draw_entropy("fixed:1f").value == bytes(31) + b"\x1f"


def test_the_largest_noise_is_accepted_and_a_larger_one_is_refused_with_what_may_be_meant():
    assert check_sigma(LARGEST_SIGMA) == LARGEST_SIGMA == 4
    assert check_sigma(0) == 0
    for sigma, words in (
        (4.25, r"sigma=4.25 is above 4, .*Then give 0.0167 \(4.25/255\)"),
        (1020, r"sigma=1020 is above 4, .*Then give 4 \(1020/255\)"),
        (1021, r"sigma=1021 is above 4, .*; choose a smaller one$"),
        (np.inf, "sigma=inf is not a valid noise level; give a number up to 4"),
        (np.nan, "sigma=nan is not a valid noise level"),
        (-0.25, "sigma=-0.25 is not a valid noise level"),
        (1e-4, "sigma=0.0001 is less than half a grey level, 0.00196"),
    ):
        with pytest.raises(InputError, match=words):
            check_sigma(sigma)


PINNED = [-85, 47, -104, 180]


def test_entropy_from_the_operating_system_is_256_bits_and_never_the_same():
    drawn = {draw_entropy("os").value for _ in range(50)}
    assert len(drawn) == 50
    assert {len(value) for value in drawn} == {32}
    assert draw_entropy("os").source == "os"


def test_fixed_entropy_says_that_it_is_fixed():
    assert draw_entropy("fixed:0a") == Entropy(bytes(31) + b"\x0a", "fixed")


@pytest.mark.parametrize("spec", ["", "fixed:", "fixed:xyz", "fixed:" + "f" * 65, "seed", "OS", "fixed:-1"])
def test_any_other_entropy_is_refused_by_name(spec):
    with pytest.raises(InputError, match=r"neither 'os' nor 'fixed:HEX'"):
        draw_entropy(spec)


def test_the_commitment_hides_the_value_and_binds_it():
    a, b = draw_entropy("fixed:01"), draw_entropy("fixed:02")
    assert a.commitment != b.commitment
    assert a.hex not in a.commitment


def test_training_seeds_differ_between_draws_and_fit_a_generator():
    seeds = [training_seed(FIXED, draw) for draw in range(1000)]
    assert len(set(seeds)) == 1000
    assert all(0 <= seed < 2**63 for seed in seeds)
