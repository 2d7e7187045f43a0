"""Budgets hold exactly, as whole pixel values count."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cleanlabel.redteam.threat.attacker import Budget, Knowledge, Poisons
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.imageset import ImageSet


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["linf", "l2"]),
    st.floats(1 / 255, 3.0, allow_nan=False),
    st.floats(0.001, 4.0),
    st.integers(0, 2**31),
)
def test_a_projected_and_rounded_change_keeps_its_budget_exactly(norm, epsilon, scale, seed):
    generator = np.random.default_rng(seed)
    base = generator.integers(0, 256, (3, 5, 5, 2), dtype=np.uint8)
    budget = Budget(3, epsilon, norm)
    pixels = torch.from_numpy(base).permute(0, 3, 1, 2).float() / 255
    delta = torch.from_numpy(generator.normal(0, scale, (3, 2, 5, 5)).astype(np.float32))
    inside = budget.project(delta, pixels)
    assert (pixels + inside).min() >= 0
    assert (pixels + inside).max() <= 1
    size = inside.abs().amax() if norm == "linf" else inside.flatten(1).norm(dim=1).amax()
    assert float(size) <= epsilon + 1e-5
    images = budget.rounded(base, inside)
    assert Poisons(images, np.arange(3), base, ()).within(budget)
    change = images.astype(np.int64) - base
    if norm == "linf":
        assert np.abs(change).max() <= 255 * epsilon + 1e-9
    else:
        assert (change**2).sum(axis=(1, 2, 3)).max() <= (255 * epsilon) ** 2 + 1e-9


def test_a_change_within_the_ball_is_kept_but_for_rounding():
    base = np.full((1, 4, 4, 1), 100, dtype=np.uint8)
    delta = torch.full((1, 1, 4, 4), 7.4 / 255)
    for budget in (Budget(1, 16 / 255), Budget(1, 1.0, "l2")):
        assert (budget.rounded(base, delta) == 107).all()


def test_rounding_up_to_the_bound_is_moved_back():
    base = np.full((1, 4, 4, 1), 100, dtype=np.uint8)
    delta = torch.full((1, 1, 4, 4), 7.6 / 255)
    assert (Budget(1, 7.9 / 255).rounded(base, delta) == 107).all()
    squeezed = Budget(1, 4 * 7.6 / 255, "l2").rounded(base, delta)  # 16 pixels of 8 would be 32 > 4 * 7.6
    assert ((squeezed.astype(int) - 100) ** 2).sum() <= (4 * 7.6) ** 2
    assert (squeezed > 105).all()


def test_norms_are_measured_on_the_whole_pixel_values():
    base = np.zeros((2, 1, 2, 1), dtype=np.uint8)
    images = base.copy()
    images[0, 0, 0], images[1, 0, 1] = 3, 4
    poisons = Poisons(images, np.array([4, 9]), base, ())
    assert poisons.linf == pytest.approx(4 / 255)
    assert poisons.l2 == pytest.approx(4 / 255)
    assert poisons.joint_l2 == pytest.approx(5 / 255)


def test_one_value_beyond_the_budget_is_beyond_it():
    base = np.full((2, 2, 2, 1), 100, dtype=np.uint8)
    images = base.copy()
    images[1, 0, 0, 0] = 108
    poisons = Poisons(images, np.array([3, 5]), base, ())
    for norm in ("linf", "l2"):
        assert poisons.within(Budget(2, 8 / 255, norm))
        assert not poisons.within(Budget(2, 7 / 255, norm))
        assert not poisons.within(Budget(1, 8 / 255, norm))
    assert not Poisons(images, np.array([3, 3]), base, ()).within(Budget(2, 8 / 255))


def test_a_trigger_in_a_poison_is_not_held_to_epsilon_but_all_else_is():
    base = np.full((1, 4, 4, 1), 50, dtype=np.uint8)
    images, mask = base.copy(), np.zeros((4, 4), dtype=bool)
    mask[3, 3] = True
    images[0, 3, 3] = 255
    assert Poisons(images, np.array([0]), base, (), mask).within(Budget(1, 2 / 255))
    images[0, 0, 0] = 60
    assert not Poisons(images, np.array([0]), base, (), mask).within(Budget(1, 2 / 255))


def test_poisons_take_their_places_and_nothing_else_changes(small_set: ImageSet):
    rows = np.array([2, 7])
    base = small_set.images[rows]
    raw = Poisons(255 - base, rows, base, ()).injected(small_set)
    assert (raw.images[rows] == 255 - base).all()
    others = np.setdiff1d(np.arange(len(small_set)), rows)
    assert (raw.images[others] == small_set.images[others]).all()
    assert raw.ids == small_set.ids
    assert (raw.labels == small_set.labels).all()
    assert raw.digest != small_set.digest


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Budget(0, 0.1), "poisons=0: an attack needs at least one"),
        (lambda: Budget(1, 0.0), r"epsilon=0 \(0/255\) cannot change a pixel"),
        (lambda: Budget(1, float("nan")), "cannot change a pixel"),
        (lambda: Budget(1, 0.1, "l1"), "norm='l1' is neither linf nor l2"),
    ],
)
def test_a_budget_that_is_none_is_refused(make, words):
    with pytest.raises(InputError, match=words):
        make()


def test_more_poisons_than_the_class_has_images_are_refused(small_set: ImageSet):
    known = Knowledge((), small_set)
    with pytest.raises(InputError, match=r"9 poisons are more than class 'b' has images \(8\)"):
        known.chosen_bases(1, 9, torch.Generator())


def test_bases_of_another_class_and_too_few_are_refused(small_set: ImageSet):
    with pytest.raises(InputError, match="a base image is not of the intended class 1"):
        Knowledge((), small_set, np.array([0])).chosen_bases(1, 1, torch.Generator())
    with pytest.raises(InputError, match="2 poisons need 2 base images, but 1 are given"):
        Knowledge((), small_set, np.array([1])).chosen_bases(1, 2, torch.Generator())


def test_bases_are_drawn_from_the_intended_class_alone(small_set: ImageSet):
    rows = Knowledge((), small_set).chosen_bases(2, 5, torch.Generator().manual_seed(1))
    assert len(set(rows.tolist())) == 5
    assert (small_set.labels[rows] == 2).all()
