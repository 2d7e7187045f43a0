"""The Python API and the light commands: somebody's own training function, its votes, their certificates."""

import csv
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from filled import filled
from models_recipes import PLAN
from PIL import Image
from scipy.special import ndtr, ndtri
from tiny import FIXED
from torch.utils.data import ConcatDataset, Dataset, Subset, TensorDataset
from torchvision.datasets import FakeData, ImageFolder
from torchvision.transforms import Compose, Grayscale, RandomCrop, RandomHorizontalFlip

import cleanlabel
from cleanlabel import ABSTAIN, InputError, SanitizedCopies, certify_sums, certify_votes, models_for_radius, reach
from cleanlabel.__main__ import main
from cleanlabel.models.answers import answers
from cleanlabel.models.influenced import influenced
from cleanlabel.models.plan import noise_distance_of
from cleanlabel.models.sums import STEPS
from cleanlabel.sanitize import errors
from cleanlabel.sanitize.imageset import ImageSet, load, save_folder, save_npz
from cleanlabel.sanitize.noise import training_seed
from cleanlabel.sanitize.rounded_gaussian import rounded_gaussian

ROOT = Path(__file__).resolve().parents[1]
SHAPE = (150, 8, 8, 1)


@pytest.fixture
def arrays() -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    return generator.integers(0, 256, (70, 8, 8), dtype=np.uint8), np.arange(70) % 3


@pytest.fixture
def votes() -> np.ndarray:
    """Of 30 models on 12 points, from unanimous to divided; some answers are missing."""
    found = np.random.default_rng(0).integers(0, 3, (30, 12))
    found[:, :6] = np.arange(6) % 3
    found[0, 1] = found[:4, 2] = -1
    return found


def test_the_tutorial_runs_as_it_stands_and_certifies(capsys):
    (block,) = re.findall(
        r"```python\n(.*?)```", (ROOT / "docs" / "tutorial" / "own-training.md").read_text(), re.DOTALL
    )
    space: dict = {}
    exec(block, space)
    certificate, labels = space["certificate"], space["labels"][1000:]
    assert len(block.splitlines()) <= 15
    assert certificate.certified_accuracy(labels)[0] > 0.5
    assert 0 < certificate.radius.max() <= reach(20, 0.5)
    assert certificate.summary(labels) in capsys.readouterr().out


def test_a_copy_is_a_function_of_data_entropy_and_draw_alone(arrays, denoiser):
    copies = SanitizedCopies(arrays, denoiser, 0.5, 3)
    again = SanitizedCopies(arrays, denoiser, 0.5, 7, entropy=f"fixed:{copies.entropy}")
    made = list(copies)
    assert [copy.draw for copy in made] == [0, 1, 2]
    for copy in reversed(made):
        same = again.copy(copy.draw)
        np.testing.assert_array_equal(copy.images, same.images)
        assert (copy.seed, copy.labels.tolist()) == (same.seed, arrays[1].tolist())
        assert copy.seed == training_seed(bytes.fromhex(copies.entropy), copy.draw)
    assert made[0].images.shape == arrays[0].shape
    assert len({copy.images.tobytes() for copy in made}) == 3
    assert copies.commitment == again.commitment != SanitizedCopies(arrays, denoiser, 0.5, 3).commitment
    assert copies.raw_digest == cleanlabel.image_set(arrays).digest


def test_a_copy_is_the_one_that_the_command_writes(arrays, denoiser_dir, tmp_path, capsys):
    save_npz(cleanlabel.image_set(arrays), tmp_path / "raw.npz")
    flags = ["--denoiser", denoiser_dir, "--sigma", 0.5, "--entropy", f"fixed:{FIXED.hex()}", "--draw", 2]
    main(["sanitize", "--input", *map(str, [tmp_path / "raw.npz", "--output", tmp_path / "copy.npz", *flags])])
    copy = cleanlabel.sanitize_images(tmp_path / "raw.npz", denoiser_dir, 0.5, entropy=f"fixed:{FIXED.hex()}", draw=2)
    np.testing.assert_array_equal(load(tmp_path / "copy.npz").images[..., 0], copy.images)


def test_without_a_denoiser_the_noise_stays_in_the_images(arrays):
    copy = SanitizedCopies(arrays, None, 0.25, 1).copy(0)
    noise = copy.images - arrays[0] / 255
    assert copy.images.dtype == np.float32
    np.testing.assert_allclose(noise * 255, np.rint(noise * 255), atol=1e-3)
    assert noise.std() == pytest.approx(0.25, rel=0.05)


def test_folders_arrays_and_data_sets_of_the_same_images_are_one_set(small_set, tmp_path):
    rgb = np.repeat(small_set.images, 3, axis=3)
    names = tuple(f"{small_set.classes[y]}/{i:02d}.png" for i, y in enumerate(small_set.labels))
    save_folder(ImageSet(rgb, small_set.labels, names, small_set.classes), tmp_path)
    folder, data = cleanlabel.image_set(tmp_path), cleanlabel.image_set(ImageFolder(str(tmp_path)))
    order = [int(Path(name).stem) for name in folder.ids]
    assert folder.classes == data.classes == small_set.classes
    np.testing.assert_array_equal(folder.images, data.images)
    np.testing.assert_array_equal(folder.images, rgb[order])
    np.testing.assert_array_equal(folder.labels, data.labels)
    array = cleanlabel.image_set((torch.from_numpy(data.images), torch.from_numpy(data.labels)))
    assert array.digest == data.digest


class Items(list):
    """The smallest data set."""


class Flickering(Items):
    """A data set whose random change no attribute shows."""

    def __init__(self, images: np.ndarray, labels: np.ndarray) -> None:
        super().__init__(zip(images, labels.tolist(), strict=True))
        self.chance = np.random.default_rng(0)

    def __getitem__(self, i: int) -> tuple[np.ndarray, int]:
        image, label = super().__getitem__(i)
        return np.roll(image, self.chance.integers(1, 8), axis=1), label


class Wrapper(Dataset):
    """A wrapper as people write it."""

    def __init__(self, base: Dataset, transforms: object = None) -> None:
        self.base, self.transforms = base, transforms

    def __len__(self) -> int:
        return len(self.base)

    def __getitem__(self, i: int) -> tuple:
        image, label = self.base[i]
        return (self.transforms(image), label) if self.transforms else (image, label)


CHANGES = [RandomCrop(8, padding=2), RandomHorizontalFlip(), Compose([RandomHorizontalFlip(), Grayscale(3)])]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize(
    ("wrap", "place"),
    [
        (lambda data: data, "data.transform = data.transforms"),
        (lambda data: Subset(data, [2, 0]), "data.dataset.transform = data.dataset.transforms"),
        (lambda data: ConcatDataset([FakeData(2, (3, 8, 8)), Subset(data, [0])]), "data.datasets[1].dataset.transform"),
        (lambda data: Wrapper(Wrapper(data)), "data.base.base.transform"),
        (lambda data: Wrapper(FakeData(2, (3, 8, 8)), data.transform), "data.transforms"),
    ],
)
def test_a_transform_that_is_left_on_is_refused_wherever_it_is(change, wrap, place):
    data = wrap(FakeData(4, (3, 8, 8), transform=change))
    with pytest.raises(InputError, match=re.escape(f"set {place}")) as refused:
        cleanlabel.image_set(data)
    assert type(change).__name__ in str(refused.value)
    assert "transform the sanitized copies" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_data_set_without_its_transform_is_taken_with_the_labels_that_it_gives():
    raw = cleanlabel.image_set(FakeData(4, (3, 8, 8), num_classes=3))
    data = FakeData(4, (3, 8, 8), num_classes=3, transform=CHANGES[0], target_transform=lambda label: 2 - label)
    data.transform = data.transforms.transform = None
    turned = cleanlabel.image_set(data)
    np.testing.assert_array_equal(turned.images, raw.images)
    assert turned.labels.tolist() == (2 - raw.labels).tolist()
    data.transforms = None
    assert cleanlabel.image_set(Subset(data, range(4))).digest == turned.digest


def test_a_set_that_changes_afterwards_changes_no_copy_and_a_digest_is_that_of_the_images_taken(arrays):
    data = cleanlabel.image_set(arrays)
    digest = data.digest
    copies = SanitizedCopies(data, None, 0.5, 2, entropy=f"fixed:{FIXED.hex()}")
    before = copies.copy(1)
    data.images[:], data.labels[:] = 255, 0
    np.testing.assert_array_equal(copies.copy(1).images, before.images)
    np.testing.assert_array_equal(copies.copy(1).labels, arrays[1])
    assert copies.raw_digest == copies.raw.digest == digest
    assert SanitizedCopies(data, None, 0.5, 2).raw_digest != digest == data.digest  # which the set remembered
    for kept in (copies.raw.images, copies.raw.labels):
        with pytest.raises(ValueError, match="read-only"):
            kept[0] = 1


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (lambda x, y: (x / 255, y), "images are float64, not uint8; save pixels as whole numbers"),
        (lambda x, y: (x, y / 1), "labels are float64 of shape"),
        (lambda x, y: (x, y[:9]), "70 images, 9 labels"),
        (lambda x, y: (np.stack([x] * 3, axis=1), y), "the channels come first"),
        (lambda x, y: (x[:0], y[:0]), "the data hold no image"),
        (lambda x, y: (x, np.full(70, 10**9)), "labels run to 1000000000; number the classes from 0, at most 1048576"),
        (lambda x, y: (x, np.full(70, 2**64 - 1, dtype=np.uint64)), "labels run to 18446744073709551615"),
        (lambda x, y: Items([(x[0], 0), (x[1], 1)]), "the data are two parts that are not arrays"),
        (lambda x, y: Items([{"image": x[0], "label": 0}] * 3), "item 0 of the data set is a dict; give items"),
        (lambda x, y: Flickering(x, y), "item 0 of the data set differs when it is read again; take out what changes"),
        (lambda x, y: 7, "the data are a int; give a path"),
        (lambda x, y: "nowhere", "nowhere does not exist"),
        (lambda x, y: TensorDataset(torch.zeros(4, 8, 8), torch.zeros(4)), "image 0 of the data set is a Tensor; give"),
        (lambda x, y: Items([(Image.new("RGBA", (8, 8)), 0)] * 3), "picture of mode RGBA"),
        (lambda x, y: Items([(x[0], 0), (x[0], 1), (x[0, :4], 1)]), r"image 2 of the data set has the shape \(4, 8\)"),
    ],
)
def test_data_that_cannot_be_taken_are_refused_in_a_sentence(arrays, data, what):
    with pytest.raises(InputError, match=what):
        SanitizedCopies(data(*arrays), None, 0.5, 1)


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ({"sigma": 0.0}, "sigma=0 adds no noise"),
        ({"sigma": 64.0}, "meant in 0..255 units"),
        ({"m": 0}, "m=0 is too small"),
        ({"m": 2.7}, "m=2.7 is not a whole number"),
        ({"fit": "resize"}, "fit='resize' changes images before the noise"),
        ({"entropy": "secret"}, "entropy='secret' is neither"),
        ({"denoiser": "no/where/at/all"}, "no/where/at/all does not exist"),
    ],
)
def test_plans_that_certify_nothing_are_refused_before_a_copy_is_made(arrays, arguments, what):
    plan = {"denoiser": None, "sigma": 0.5, "m": 2} | arguments
    with pytest.raises(InputError, match=what):
        SanitizedCopies(arrays, **plan)


@pytest.mark.parametrize("method", ["binary", "margin", "split"])
def test_votes_are_certified_exactly_as_the_pipeline_certifies_them(votes, method):
    from dataclasses import replace

    m, selection = (20, 10) if method == "split" else (30, 0)
    plan = replace(
        PLAN,
        m=m,
        selection=selection,
        sigma=0.5,
        method=method,
        n_test=12,
        alpha=0.01,
        noise_distance=noise_distance_of(SHAPE[0], SHAPE[1:], 0.5),
    )
    expected = answers(plan, 0, m, dict(enumerate(votes)), 12)
    choosing = {"selection": votes[m:]} if selection else {}
    found = certify_votes(votes[:m], 0.5, SHAPE, alpha=0.01, method=method, classes=3, **choosing)
    np.testing.assert_array_equal(found.label, expected.label)
    np.testing.assert_array_equal(found.radius, expected.radius)
    assert (found.label != ABSTAIN).any()
    assert found.noise_distance == plan.noise_distance > 0


def test_the_noises_distance_from_the_ideal_one_is_subtracted():
    images = int(0.05 / rounded_gaussian(0.5).total_variation / 64)
    unanimous = np.zeros((100, 1), dtype=np.int64)
    near, far = (certify_votes(unanimous, 0.5, (n, 8, 8)) for n in (1, images))
    assert far.noise_distance == pytest.approx(0.05, rel=1e-3)
    assert 0 < far.radius[0] < near.radius[0] - 0.05


def test_a_missing_model_stays_among_the_planned_ones_and_votes_for_nobody():
    unanimous = [np.zeros(1, dtype=np.int64)] * 30
    full = certify_votes(unanimous, 0.5, SHAPE)
    lost = certify_votes([None, *unanimous[1:]], 0.5, SHAPE)
    blank = certify_votes([np.array([-1]), *unanimous[1:]], 0.5, SHAPE)
    assert lost.m == 30
    assert lost.radius[0] == blank.radius[0] < certify_votes(unanimous[1:], 0.5, SHAPE).radius[0] < full.radius[0]
    assert certify_votes([np.array([-1, 0])] * 30, 0.5, SHAPE).vote.tolist() == [ABSTAIN, 0]


def test_alpha_is_shared_between_points_and_ensembles():
    unanimous = np.zeros((30, 4), dtype=np.int64)
    whole = certify_votes(unanimous, 0.5, SHAPE, alpha=0.01)
    assert certify_votes(unanimous, 0.5, SHAPE, alpha=0.01, simultaneous=True).level == whole.level / 4
    assert certify_votes(unanimous, 0.5, SHAPE, alpha=0.01, ensembles=3).level == whole.level / 3
    assert certify_votes(unanimous, 0.5, SHAPE, alpha=0.01, ensembles=3).radius[0] < whole.radius[0]


def test_class_sums_are_certified_as_the_pipeline_certifies_them():
    sizes = (60, 50, 40)
    sums = np.random.default_rng(0).integers(0, 2000, (40, 4, 3)) * 40
    sums[..., 1] += 200_000
    found = certify_sums([*sums, None], sizes, 0.5, SHAPE)
    distance = noise_distance_of(SHAPE[0], SHAPE[1:], 0.5)
    expected = influenced(dict(enumerate(sums)), 41, 4, sizes, "one", 0.5, 0.001, distance=distance)
    np.testing.assert_array_equal(found.label, expected.label)
    np.testing.assert_array_equal(found.radius(), expected.radius())
    assert (found.label == 1).all()
    assert (found.counts("rewritten") > 0).all()
    with pytest.raises(InputError, match=r"class_sizes=\[60, 50\] sum to 110 images, and the training set has 150"):
        certify_sums(sums, sizes[:2], 0.5, SHAPE)
    with pytest.raises(InputError, match="a sum that its class's images cannot reach"):
        certify_sums(sums * 100, sizes, 0.5, SHAPE)


def test_sums_of_two_sides_are_certified_against_a_class_without_images():
    """Class 2 has the sum 0 whatever moves, and wins once class 0's sum is below 0."""
    h, n, sigma = 0.6, 60, 0.5  # influences 2 Phi(.) - 1 of half-spaces
    sums = np.tile(np.rint(n * STEPS * (2 * np.array([h, 0.01, 0.5]) - 1)).astype(np.int64), (200, 1, 1))
    found = certify_sums(sums, (n, n, 0), sigma, (2 * n, 8, 8), sides="two")
    within = found.radius()[0] / n**0.5
    assert found.label == [0]
    assert 0 < found.radius()[0] < 1.0
    assert 2 * ndtr(ndtri(h) - within / sigma) - 1 > 0
    assert 2 * ndtr(ndtri(h) - 1.0 / n**0.5 / sigma) - 1 < 0  # an attacker of joint norm 1
    others = certify_sums(sums[..., :2], (n, n), sigma, (2 * n, 8, 8), sides="two")
    assert others.radius()[0] > 4
    one_sided = certify_sums(np.maximum(sums, 0), (n, n, 0), sigma, (2 * n, 8, 8))
    assert one_sided.radius()[0] > 0
    copies = SanitizedCopies((np.zeros((2, 8, 8), dtype=np.uint8), np.array([0, 5])), None, 0.5, 1)
    assert copies.class_sizes == (1, 0, 0, 0, 0, 1)


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ({"votes": np.zeros((3, 2))}, "the answers of model 0 are float64"),
        ({"votes": np.zeros(3, dtype=int)}, r"the answers have the shape \(3,\)"),
        ({"votes": [None, None]}, "the answers of every model are missing"),
        ({"votes": [np.zeros(2, dtype=int), np.zeros(3, dtype=int)]}, "the answers of model 1 are int64 of shape"),
        ({"votes": np.zeros((3, 0), dtype=int)}, "there are no test points"),
        ({"votes": np.full((3, 2), 9), "classes": 3}, "draw 0 votes for class 9; there are classes 0..2"),
        ({"sigma": 0.0}, "without noise no vote certifies anything"),
        ({"alpha": 1.0}, "alpha=1 is not a probability of error"),
        ({"ensembles": 0}, "ensembles=0 is too small"),
        ({"training_set": (50000,)}, r"training_set=\(50000,\) is not a shape of images"),
        ({"method": "majority"}, "method='majority' is unknown; it is one of binary, split, margin"),
        ({"method": "margin"}, "give classes"),
        ({"method": "margin", "classes": 1}, "classes=1 is too small"),
        ({"method": "split"}, "method='split' needs selection votes"),
        ({"method": "split", "selection": [None, np.zeros(2, dtype=int)]}, "1 of 2 models"),
        ({"method": "split", "selection": np.full((9, 2), -1)}, "model 0 of the selection votes -1 on test point 0"),
        ({"method": "split", "selection": [[0, 1], [1, -1]]}, "model 1 of the selection votes -1 on test point 1"),
        ({"votes": np.full((30, 2), 10**9)}, "draw 0 votes for class 1000000000: counts of 1000000001 classes for 2"),
        ({"method": "split", "selection": [[0, 10**12]]}, "draw 30 votes for class 1000000000000: counts of"),
        ({"classes": 10**9}, "classes=1000000000 is too large; give 2 to 1048576"),
        (
            {"votes": np.zeros((9, 300), int), "classes": 10**6},
            "classes=1000000: counts of 1000000 classes for 300 points",
        ),
        ({"classes": 2.5}, "classes=2.5 is not a whole number"),
        ({"votes": (row for row in np.zeros((30, 2), dtype=int))}, "the answers are a generator; give an array"),
        ({"votes": np.zeros((10**12, 0), dtype=int)}, "there are no test points"),
        ({"training_set": (10**12, 999, 999, 3)}, "training_set=.* has 2.99e.18 values: the noise drawn for so many"),
        ({"training_set": (150.5, 8, 8)}, r"training_set=\(150.5, 8, 8\) is not a shape of images"),
        ({"training_set": 150}, "training_set=150 is not a shape of images"),
        ({"ensembles": 1.5}, "ensembles=1.5 is not a whole number"),
        ({"ensembles": math.nan}, "ensembles=nan is not a whole number"),
        ({"alpha": 5e-324, "ensembles": 2}, "alpha=4.94066e-324 shared by 2 ensembles and 1 points is 0"),
        ({"entropy_source": "secret"}, "entropy_source='secret' is none of os, fixed, unknown"),
    ],
)
def test_votes_and_settings_that_certify_nothing_are_refused_in_a_sentence(arguments, what):
    usual = {"votes": np.zeros((30, 2), dtype=np.int64), "sigma": 0.5, "training_set": SHAPE}
    with pytest.raises(InputError, match=what):
        certify_votes(**usual | arguments)


def test_the_votes_themselves_choose_no_class(votes):
    whole = {"sigma": 0.5, "training_set": SHAPE, "alpha": 0.01, "method": "split"}
    alike = np.zeros((30, 12), dtype=np.int64)
    for of, selection in [
        (votes, votes),
        (votes, votes.copy()),
        (votes, votes[::-1].copy()),
        (alike, alike),  # in one memory: this is no chance, though all models agree
        (alike, alike[:10]),
        (rows := list(alike), rows[:10]),
    ]:
        with pytest.raises(InputError, match="the selection votes are the votes themselves; give those of further"):
            certify_votes(of, selection=selection, **whole)
    votes[0, 1] = 0  # of the first rows, none lacks an answer
    for selection in (votes[5:15].copy(), votes[5:15].tolist()):
        with pytest.raises(InputError, match="10 of 10 selection models repeat the answers of a model of the votes"):
            certify_votes(votes, selection=selection, **whole)
    assert certify_votes(alike, selection=alike[:10].copy(), **whole).radius[0] > 0
    assert certify_votes(votes[:20], selection=votes[20:], **whole).m == 20


@pytest.mark.parametrize(
    ("call", "what"),
    [
        (lambda: reach(100, 0.0), "sigma=0: without noise no vote certifies anything"),
        (lambda: reach(0, 0.25), "m=0 is too small"),
        (lambda: reach(1.5, 0.25), "m=1.5 is not a whole number"),
        (lambda: reach(10**400, 0.25), "m=10+ is too large"),
        (lambda: reach(9, 0.25, method="margin", classes=None), "give classes"),
        (lambda: cleanlabel.sanitize_images("nowhere", None, 0.5, draw=-1), "draw=-1 is too small"),
        (lambda: reach(9, 0.25, classes=10**10), "classes=10000000000 is too large"),
        (lambda: models_for_radius(0.1, 0.0), "sigma=0: without noise no vote certifies anything"),
        (lambda: certify_sums(np.zeros((3, 2, 2), dtype=int), (75.5, 74.5), 0.5, SHAPE), "class=75.5 is not a whole"),
        (lambda: certify_sums(np.zeros((3, 2, 2), dtype=int), (151, -1), 0.5, SHAPE), "class=-1 is too small"),
        (lambda: certify_sums(iter(np.zeros((3, 2, 2), dtype=int)), (75, 75), 0.5, SHAPE), "; give an array of shape"),
    ],
)
def test_numbers_that_are_none_are_refused_in_a_sentence(call, what):
    with pytest.raises(InputError, match=what):
        call()


@pytest.mark.parametrize("truth", [[0], [[0], [1]], 0, [0, 1, 2]])
def test_a_truth_that_is_not_one_label_for_each_point_is_not_spread_over_them(truth):
    certificate = certify_votes(np.zeros((30, 2), dtype=np.int64), 0.5, SHAPE)
    for call in (certificate.summary, certificate.certified_accuracy):
        with pytest.raises(InputError, match="truth has the shape .*; give one label for each of 2 points"):
            call(truth)
    assert certificate.certified_accuracy([0, 1]) == [0.5]


def test_copies_take_the_votes_of_every_planned_model_and_say_what_the_noise_came_from(arrays):
    copies = SanitizedCopies(arrays, None, 0.5, 20, entropy=f"fixed:{FIXED.hex()}")
    with pytest.raises(InputError, match="votes of 19 models and 20 copies were planned"):
        copies.certify(np.zeros((19, 4), dtype=np.int64))
    with pytest.raises(InputError, match="the answers are a generator"):
        copies.certify(np.zeros(4, dtype=np.int64) for _ in range(20))
    for draw, what in ((20, "copy 20 is not planned"), (0.5, "draw=0.5 is not a whole number")):
        with pytest.raises(InputError, match=what):
            copies.copy(draw)
    certificate = copies.certify(np.zeros((20, 4), dtype=np.int64))
    assert certificate.noise_distance == copies.noise_distance == noise_distance_of(70, (8, 8, 1), 0.5)
    assert (certificate.entropy_source, certificate.counts.shape) == ("fixed", (4, 3))
    assert "made with fixed entropy" in certificate.summary()
    assert "fixed" not in SanitizedCopies(arrays, None, 0.5, 20).certify([np.zeros(4, dtype=int)] * 20).summary()


def test_what_a_radius_buys_is_what_the_certificate_says():
    certificate = certify_votes(np.zeros((1000, 1), dtype=np.int64), 1.0, (50_000, 32, 32, 3))
    grey = 3072**0.5 / 255
    (images,) = certificate.images_tolerated(grey)
    assert images == cleanlabel.images_tolerated(certificate.radius[0], grey) > 0
    assert images**0.5 * grey < certificate.radius[0] <= (images + 1) ** 0.5 * grey
    assert certificate.per_image_radius(4)[0] == cleanlabel.per_image_radius(certificate.radius[0], 4)


def test_planning_finds_the_least_number_of_models():
    assert models_for_radius(0, 0.5) == 11
    assert models_for_radius(0, 0.5, method="split") == 10
    assert reach(100, 1.0) == pytest.approx(1.452, abs=1e-3)
    assert reach(100, 1.0, classes=1 << 20) == reach(100, 1.0)
    for method in ("binary", "margin", "split"):
        m = models_for_radius(0.5, 0.5, 0.01, method, 10)
        assert reach(m - 1, 0.5, 0.01, method, 10) <= 0.5 < reach(m, 0.5, 0.01, method, 10)
    with pytest.raises(
        InputError, match="radius=9 is out of reach at sigma=0.25: 100,000 models that all agree certify"
    ):
        models_for_radius(9, 0.25)


@pytest.fixture
def run(monkeypatch, capfd):
    """Call `cleanlabel` as its console script does; returns (exit status, stdout, stderr)."""

    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["cleanlabel", *map(str, words)])
        status = 0
        try:
            errors.run(main)
        except SystemExit as stopped:
            status = 1 if isinstance(stopped.code, str) else int(stopped.code or 0)
            if isinstance(stopped.code, str):
                sys.stderr.write(f"{stopped.code}\n")
        said = capfd.readouterr()
        return status, said.out, said.err

    return call


def test_votes_in_a_file_become_certificates_in_a_file(run, votes, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    truth = np.arange(12) % 3
    np.save("votes.npy", votes)
    np.save("truth.npy", truth)
    expected = certify_votes(votes, 0.5, SHAPE, alpha=0.01, method="margin", classes=3)
    flags = ("--sigma", 0.5, "--training-set", *SHAPE, "--alpha", 0.01, "--method", "margin", "--classes", 3)
    for output in ("points.csv", "points.json"):
        status, said, err = run("certify-votes", "votes.npy", *flags, "--truth", "truth.npy", "--output", output)
        assert (status, err) == (0, "")
        assert expected.summary(truth) in said
        assert "certified accuracy" in said
        assert re.search(r"one image changes by [\d.]+ of 255 levels in every value, or \d+ images", said)
    rows = list(csv.DictReader(Path("points.csv").read_text().splitlines()))
    assert [int(row["label"]) for row in rows] == expected.label.tolist()
    assert [float(row["radius"]) for row in rows] == expected.radius.tolist()
    content = json.loads(Path("points.json").read_text())
    assert [point["truth"] for point in content["points"]] == truth.tolist()
    assert content["noise_distance"] == expected.noise_distance


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (("certify-votes", "nowhere.npy"), "nowhere.npy does not exist; give a .npy file of integers"),
        (("certify-votes", "objects.npy"), "objects.npy is not a readable .npy file of numbers"),
        (
            ("certify-votes", "huge.npy"),
            "huge.npy is not a readable .npy file of numbers (its header says 8000000000000",
        ),
        (("certify-votes", "."), ". is no file; give a .npy file of integers"),
        (("certify-votes", "endless.npy"), "there are no test points"),
        (("certify-votes", "strange.npy"), "draw 0 votes for class 1000000000: counts of 1000000001 classes"),
        (
            ("certify-votes", "good.npy", "--training-set", 10**12, 999, 999, 3),
            "training_set=(1000000000000, 999, 999, 3) has 2.99e+18 values",
        ),
        (
            ("certify-votes", "good.npy", "--method", "split", "--selection", "./good.npy"),
            "--selection good.npy is the file of the votes; give the votes of further models",
        ),
        (
            ("certify-votes", "mixed.npy", "--method", "split", "--selection", "copied.npy"),
            "the selection votes are the votes themselves",
        ),
        (("certify-votes", "text.npy"), "text.npy is not a readable .npy file of numbers"),
        (("certify-votes", "floats.npy"), "floats.npy holds float64 of shape (4, 2); give integers of shape (m, n)"),
        (("certify-votes", "many.npz"), "many.npz is an archive of several arrays"),
        (("certify-votes", "good.npy", "--truth", "short.npy"), "short.npy has 1 labels, and good.npy votes on 2"),
        (("certify-votes", "good.npy", "--output", "out.txt"), "--output out.txt is neither .csv nor .json"),
        (("certify-votes", "good.npy", "--alpha", 2), "alpha=2 is not a probability of error"),
        (("certify-votes", "good.npy", "--method", "split"), "method='split' needs selection votes"),
        (
            ("sanitize", "--input", "many.npz", "--output", "new.npz", "--noise-only", "--sigma", 1, "--draw", 10**30),
            "--draw 1000000000000000000000000000000 is not the number of a draw; number the draws from 0",
        ),
        (("plan", "--sigma", 0), "--sigma 0: without noise no vote certifies anything"),
        (("plan", "--sigma", 99), "sigma=99 is above 4"),
        (("plan", "--sigma", 1, "--models", 0), "--models=0 is too small"),
        (("plan", "--sigma", 1, "--points", 10**400), "is too large; give 1 to 9007199254740992"),
        (("plan", "--sigma", 1, "--image", 10**200, 10**200), "is not a shape; give height, width"),
        (("plan", "--sigma", 1, "--classes", 10**10), "classes=10000000000 is too large; give 2 to 1048576"),
        (("plan", "--sigma", 1, "--radius", -1), "radius=-1 is not a joint l2 norm"),
        (("plan", "--sigma", 1, "--method", "margin"), "give --classes"),
        (("plan", "--sigma", 1, "--image", 3), "--image 3 is not a shape"),
        (
            ("certify",),
            "'certify' is not a command of cleanlabel; choose one of sanitize, preview, plan, certify-votes",
        ),
    ],
)
def test_bad_input_ends_in_one_sentence_and_writes_nothing(run, tmp_path, monkeypatch, words, what):
    monkeypatch.chdir(tmp_path)
    np.save("objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    Path("text.npy").write_text("1,2")
    np.save("floats.npy", np.zeros((4, 2)))
    np.save("good.npy", np.zeros((30, 2), dtype=np.int64))
    np.save("short.npy", np.zeros(1, dtype=np.int64))
    np.savez("many.npz", a=np.zeros(3))
    for name in ("mixed.npy", "copied.npy"):
        np.save(name, np.random.default_rng(0).integers(0, 3, (30, 9)))
    np.save("endless.npy", np.zeros((10**12, 0), dtype=np.int64))
    np.save("strange.npy", np.full((30, 2), 10**9))
    huge = {"descr": "<i8", "fortran_order": False, "shape": (10**6, 10**6)}
    with Path("huge.npy").open("wb") as stream:
        np.lib.format.write_array_header_1_0(stream, huge)
    before = sorted(Path().rglob("*"))
    if words[0] == "certify-votes":
        shape = () if "--training-set" in words else ("--training-set", *SHAPE)
        words = (*words, "--sigma", 0.5, *shape, *(() if "--output" in words else ("--output", "new.csv")))
    status, said, err = run(*words)
    assert (status, said) == (1, "")
    assert what in err
    assert len(err.strip().splitlines()) == 1
    assert sorted(Path().rglob("*")) == before


def test_planning_prints_models_and_what_a_radius_buys(run):
    status, said, _ = run("plan", "--sigma", 0.5, "--radius", 0.5, "--image", 8, 8)
    assert status == 0
    assert "fewer than 11 models certify nothing" in said
    assert "radius 0.5: at least 44 models, if all agree" in said
    status, said, _ = run("plan", "--sigma", 0.5, "--points", 100, "--models", 20)
    assert "20 models: radius" in said
    assert "level 1e-05" in said


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (("cleanlabel", "sanitize"), "python -m cleanlabel sanitize"),
        (("cleanlabel", "plan"), "python -m cleanlabel plan"),
        (("cleanlabel.sanitize",), "python -m cleanlabel.sanitize"),
        (("sanitize.preview",), "python -m sanitize.preview"),
    ],
)
def test_a_command_says_how_it_was_called(words, name):
    done = subprocess.run(
        [sys.executable, "-m", *words, "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith(f"usage: {name} [-h]")


def test_the_package_offers_what_it_names_and_importing_it_loads_nothing_else():
    code = "import sys, cleanlabel; print({'torch', 'numpy', 'mlflow', 'cleanlabel.api'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
    for name in filled(cleanlabel.__all__):
        assert getattr(cleanlabel, name) is not None
        assert name in dir(cleanlabel)
    with pytest.raises(AttributeError, match="no attribute 'certifiy'"):
        cleanlabel.certifiy  # noqa: B018
