"""Partitioned smoothing, rule by rule: a block's models are a function of that block, the plan and their seeds."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from filled import filled
from models_recipes import PLAN, QUICK
from tiny import FIXED

from cleanlabel.models.answers import answers, largest_radius
from cleanlabel.models.blocks import block_of
from cleanlabel.models.certificate import ABSTAIN
from cleanlabel.models.draw import Smoothed, block_batch, make_again, make_batch, make_draw
from cleanlabel.models.extractors import Extractor
from cleanlabel.models.materials import Materials
from cleanlabel.models.params import TrainParams
from cleanlabel.models.partition import block_certificates, partition_radius
from cleanlabel.models.plan import plan_from_dict
from cleanlabel.models.start import Start
from cleanlabel.models.weights import load_weights, read_weights, save_weights
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.imageset import ImageSet
from cleanlabel.sanitize.noise import training_seed

K = 4
DRAWS = range(3)
CNN = QUICK.model_copy(update={"architecture": "small-cnn", "width": 4, "shift": 1, "flip": True})
TRANSFER = QUICK.model_copy(update={"mode": "transfer", "head": "lda", "head_l2": 1.0})
COPY_STATISTICS = QUICK.model_copy(update={"normalise": "copy"})


def materials(raw: ImageSet, test: ImageSet, recipe: TrainParams = QUICK, k: int = K, **more: object) -> Materials:
    start = Start(extractor=more.pop("extractor", None))
    return Materials(raw, test, 0.25, more.pop("denoiser", None), recipe, len(DRAWS), start=start, partitions=k, **more)


def extractor() -> Extractor:
    torch.manual_seed(1)
    body = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 6), torch.nn.ReLU())
    return Extractor(body.requires_grad_(requires_grad=False), torch.nn.Linear(6, 3), (8, 8, 1), "")


def rewritten(raw: ImageSet, block: int) -> ImageSet:
    """Other pixels and labels, as far as the block goes."""
    mine = block_of(raw.ids, K) == block
    images = np.where(mine[:, None, None, None], 255 - raw.images, raw.images)
    return ImageSet(images, np.where(mine, (raw.labels + 1) % 3, raw.labels), raw.ids, raw.classes)


def removed(raw: ImageSet, block: int) -> ImageSet:
    """The block's images are gone."""
    return raw.take(np.flatnonzero(block_of(raw.ids, K) != block))


def added(raw: ImageSet, block: int) -> ImageSet:
    """Thirty more images in the block, in front of all others."""
    ids = [name for name in (f"0-new-{i}" for i in range(1000)) if block_of([name], K)[0] == block][:30]
    images = np.random.default_rng(5).integers(0, 256, (30, *raw.image_shape), dtype=np.uint8)
    labels = np.zeros(30, dtype=np.int64)
    everything = np.concatenate([images, raw.images]), np.concatenate([labels, raw.labels])
    return ImageSet(*everything, (*ids, *raw.ids), raw.classes)


def state(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([weight.flatten() for weight in model.state_dict().values()])


@pytest.mark.parametrize("change", [rewritten, removed, added])
@pytest.mark.parametrize("way", ["mlp", "copy statistics", "small-cnn", "transfer"])
def test_a_change_of_one_block_leaves_every_other_blocks_models_equal_to_the_bit(
    small_set, denoiser, change: Callable[[ImageSet, int], ImageSet], way
):
    recipe = {"mlp": QUICK, "small-cnn": CNN, "copy statistics": COPY_STATISTICS, "transfer": TRANSFER}[way]
    more = {"extractor": extractor()} if way == "transfer" else {}
    block = 2
    before, after = (
        list(make_batch(materials(raw, small_set, recipe, denoiser=denoiser, **more), FIXED, DRAWS))
        for raw in (small_set, change(small_set, block))
    )
    for one, other in zip(filled(before), after, strict=True):
        for j in range(K):
            same = torch.equal(state(one.model[j]), state(other.model[j]))
            assert same == (j != block)
            if j != block:
                np.testing.assert_array_equal(one.votes[j], other.votes[j])


def test_a_blocks_models_are_those_of_an_ensemble_that_has_nothing_else(small_set, denoiser):
    ours = materials(small_set, small_set, denoiser=denoiser)
    joined = list(make_batch(ours, FIXED, DRAWS))
    for j, block in enumerate(filled(ours.blocks)):
        mine = np.flatnonzero(block_of(small_set.ids, K) == j)
        assert list(block.raw.ids) == sorted(small_set.ids[i] for i in mine)
        for whole, alone in zip(joined, block_batch(block, FIXED, DRAWS), strict=True):
            np.testing.assert_array_equal(whole.votes[j], alone.votes)
    assert joined[0].votes.shape == (K, len(small_set))
    assert len({made.copy_sha256 for made in joined}) == len(DRAWS)


def test_the_order_of_the_raw_set_does_not_matter(small_set):
    shuffled = small_set.take(np.random.default_rng(0).permutation(len(small_set)))
    one, other = (list(make_batch(materials(raw, small_set), FIXED, DRAWS)) for raw in (small_set, shuffled))
    assert all(np.array_equal(a.votes, b.votes) for a, b in zip(filled(one), other, strict=True))


def test_one_draw_is_made_again_to_the_bit_and_its_slow_twin_agrees(small_set, denoiser):
    ours = materials(small_set, small_set, denoiser=denoiser)
    batch = list(make_batch(ours, FIXED, DRAWS))
    again = make_again(ours, FIXED, DRAWS, 1)
    np.testing.assert_array_equal(again.votes, batch[1].votes)
    assert torch.equal(state(again.model), state(batch[1].model))
    slow = make_draw(ours, FIXED, 1)
    assert np.mean(slow.votes == batch[1].votes) >= 0.9  # pixels may differ by a rounding


def test_a_block_without_images_votes_for_nobody_and_one_without_a_class_never_for_that(small_set):
    one_class = small_set.take(np.flatnonzero(small_set.labels == 1)[:2])
    for recipe, more in ((QUICK, {}), (TRANSFER, {"extractor": extractor()})):
        ours = materials(one_class, small_set, recipe, k=64, **more)
        made: Smoothed = next(make_batch(ours, FIXED, range(1)))
        filled = set(block_of(one_class.ids, 64).tolist())
        for j, votes in enumerate(made.votes):
            assert (votes == -1).all() or j in filled
        if more:
            assert all((made.votes[j] == 1).all() for j in filled)
        empty = next(j for j in range(64) if j not in filled)
        assert (make_draw(ours, FIXED, 0).votes[empty] == -1).all()


def test_each_block_has_training_seeds_of_its_own():
    seeds = {training_seed(FIXED, draw, block) for draw in range(20) for block in (None, *range(20))}
    assert len(seeds) == 20 * 21


def test_the_models_of_two_blocks_start_from_seeds_of_their_own(small_set):
    ours = materials(small_set, small_set)
    (whole,) = materials(small_set, small_set, k=1).blocks
    seeds = [block.seed(FIXED, draw) for block in (*ours.blocks, whole) for draw in DRAWS]
    assert len(set(seeds)) == len(DRAWS) * (K + 1)


def test_the_networks_of_all_blocks_lie_in_one_file_and_vote_as_they_did(small_set, tmp_path):
    ours = materials(small_set, small_set)
    made = next(make_batch(ours, FIXED, DRAWS))
    save_weights(made.model, tmp_path / "draw.safetensors", ours.architecture)
    read = load_weights(tmp_path / "draw.safetensors")
    assert torch.equal(state(read), state(made.model))
    with pytest.raises(InputError, match="networks of 4 blocks"):
        read_weights(tmp_path / "draw.safetensors")


def test_the_plan_names_the_blocks_and_one_block_is_named_as_ever():
    split = replace(PLAN, partitions=5, partition_rule="rule")
    assert "partitions" not in PLAN.as_dict()
    assert plan_from_dict(PLAN.as_dict()) == PLAN
    assert plan_from_dict(split.as_dict()) == split
    assert PLAN.digest != split.digest
    assert PLAN.family == split.family  # k chosen anew is an attempt more
    assert split.least_m(0) == 14 > PLAN.least_m(0) == 11  # 2**-13 > .0001, 2**-10 > .0005
    assert split.votes_shape == (5, 50)
    assert not replace(PLAN, chosen_on="raw").certifiable
    assert PLAN.certifiable


def test_answers_are_those_of_the_blocks_certificates():
    plan = replace(PLAN, partitions=3, partition_rule="rule", n_test=6)
    rng = np.random.default_rng(3)
    votes = {draw: np.where(rng.random((3, 6)) < 0.95, np.arange(6) % 3, -1) for draw in range(100) if draw != 7}
    votes[8] = np.full((3, 6), -1)
    found = answers(plan, 0, 100, votes, 6)
    counts = sum((row[:, :, None] == np.arange(3)).astype(int) for row in votes.values())
    labels, radii = block_certificates(counts, 100, 1.0, 0.001, distance=plan.noise_distance)
    label, radius = partition_radius(labels, radii, 3)
    np.testing.assert_array_equal(found.label, label)
    np.testing.assert_array_equal(found.radius, radius)
    assert (found.label == np.arange(6) % 3).all()
    assert (found.counts.sum(axis=1) == 3).all()
    assert largest_radius(plan, 0, 100) > largest_radius(PLAN, 0, 100)
    assert (answers(plan, 0, 100, {}, 6).label == ABSTAIN).all()
    with pytest.raises(InputError, match="3 blocks"):
        answers(plan, 0, 100, {0: np.zeros(6, dtype=np.int64)}, 6)
