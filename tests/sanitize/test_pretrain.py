"""The training of a denoiser: an interruption changes no bit, and each schedule and prediction learns to denoise."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from cleanlabel.sanitize import denoiser_training, pretrain
from cleanlabel.sanitize.denoiser import load_denoiser
from cleanlabel.sanitize.denoiser_training import LARGEST_TIMESTEP, Training, trained_timesteps
from cleanlabel.sanitize.device import has_fast_bfloat16
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.imageset import ImageSet
from cleanlabel.sanitize.ingest import digits
from cleanlabel.sanitize.params import DenoiserParams
from cleanlabel.sanitize.pretrain import train_denoiser
from cleanlabel.sanitize.timestep import largest_sigma

STEPS = 12


@pytest.fixture(scope="module")
def trusted() -> ImageSet:
    return digits(120, 150, 0)["trusted"]


def params(**changes: object) -> DenoiserParams:
    content = {"source": "train", "revision": None, "provenance": None, "origin": None, "channels": [8, 16]}
    content |= {"steps": STEPS, "batch": 32, "learning_rate": 0.003, "seed": 0}
    return DenoiserParams.model_validate(content | changes)


def weights(directory: Path) -> dict[str, torch.Tensor]:
    return load_file(directory / "unet" / "diffusion_pytorch_model.safetensors")


@pytest.mark.parametrize("stop", [1, 7, STEPS - 1])
def test_a_training_that_was_interrupted_ends_with_the_same_bits(trusted, tmp_path, stop):
    train_denoiser(trusted, params(), tmp_path / "whole")
    began = Training(trusted, params(), STEPS)
    for _ in range(stop):
        began.step()
    unfinished = tmp_path / "unfinished.safetensors"
    began.keep(unfinished)
    train_denoiser(trusted, params(), tmp_path / "resumed", unfinished)
    one, other = weights(tmp_path / "whole"), weights(tmp_path / "resumed")
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert not unfinished.exists()


def test_a_long_training_is_saved_as_it_goes(trusted, tmp_path, monkeypatch):
    monkeypatch.setattr(pretrain, "KEPT_EVERY", 0.0)
    seen = []
    monkeypatch.setattr(Training, "keep", lambda training, path: seen.append((training.done, path)))
    train_denoiser(trusted, params(), tmp_path / "made", tmp_path / "unfinished.safetensors")
    assert seen == [(step, tmp_path / "unfinished.safetensors") for step in range(1, STEPS + 1)]


def one_bit(images: ImageSet) -> ImageSet:
    pixels = images.images.copy()
    pixels[0, 4, 4, 0] ^= 1
    return images.with_images(pixels)


OTHER_IMAGES = {
    "a bit": one_bit,
    "order": lambda images: images.take(np.arange(120)[::-1]),
    "fewer": lambda images: images.take(np.arange(119)),
}
OTHER_PARAMS = {
    "source": "elsewhere",
    "revision": "abc",
    "provenance": "fixed-before",
    "origin": "ours",
    "channels": [8, 24],
    "steps": STEPS + 1,
    "batch": 16,
    "learning_rate": 0.003 + 1e-18,
    "seed": 1,
    "schedule": "cosine",
    "prediction": "v_prediction",
    "held_out": 1,
    "precision": "bfloat16",
}


def began(trusted: ImageSet, path: Path, **changes: object) -> Training:
    """A training after its first step, which is kept in `path`."""
    training = Training(trusted, params(**changes), STEPS)
    training.step()
    training.keep(path)
    return training


def test_a_training_goes_on_whatever_the_finished_network_is_quantised_for(trusted, tmp_path):
    began(trusted, tmp_path / "unfinished.safetensors")
    assert Training(trusted, params(int8=0.5), STEPS).resume(tmp_path / "unfinished.safetensors")
    assert OTHER_PARAMS.keys() == DenoiserParams.model_fields.keys() - {"int8"}


def test_another_trainings_file_is_not_gone_on_from(trusted, tmp_path, monkeypatch):
    monkeypatch.setattr(denoiser_training, "has_fast_bfloat16", lambda _: True)
    path = tmp_path / "unfinished.safetensors"
    began(trusted, path)
    others = {name: Training(trusted, params(**{name: value}), STEPS) for name, value in OTHER_PARAMS.items()}
    others |= {name: Training(change(trusted), params(), STEPS) for name, change in OTHER_IMAGES.items()}
    others["more steps"] = Training(trusted, params(), STEPS + 1)
    for name, other in others.items():
        assert not other.resume(path), name
        assert other.done == 0
    mine = Training(trusted, params(), STEPS)
    path.write_bytes(path.read_bytes()[:100])
    assert not mine.resume(path)
    assert not mine.resume(tmp_path / "none")
    assert mine.done == 0


def test_a_training_is_not_gone_on_from_by_other_code_and_says_so(trusted, tmp_path, code, capsys):
    path = tmp_path / "unfinished.safetensors"
    began(trusted, path)
    (code / "sanitize" / "timestep.py").write_bytes(b"")
    assert not Training(trusted, params(), STEPS).resume(path)
    train_denoiser(trusted, params(), tmp_path / "made", path)
    assert f"begins anew: {path} is of other images, params or code" in capsys.readouterr().out
    assert not path.exists()


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_each_schedule_and_prediction_learns_to_denoise(trusted, tmp_path, schedule, prediction, capsys):
    wanted = params(steps=150, schedule=schedule, prediction=prediction, held_out=20)
    steps, psnr = train_denoiser(trusted, wanted, tmp_path / "made")
    assert steps == 150
    assert psnr["0.5"] > 9  # noise of sigma .5 alone: 6.0 dB
    assert psnr["0.1"] > psnr["1"]
    assert "PSNR of 20 held-out images in dB" in capsys.readouterr().out
    assert load_denoiser(tmp_path / "made").prediction == prediction


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_the_trained_timesteps_reach_the_same_noise_in_each_schedule(trusted, schedule):
    alphas = Training(trusted, params(schedule=schedule), STEPS).scheduler.alphas_cumprod
    count = trained_timesteps(alphas)
    assert largest_sigma(alphas[:count].numpy()) == pytest.approx(2.6, rel=0.2)
    assert (count == LARGEST_TIMESTEP) == (schedule == "linear")


def test_held_out_images_are_not_trained_on(trusted):
    training = Training(trusted, params(held_out=20), STEPS)
    assert (len(training.clean), len(training.held_out)) == (100, 20)
    rows = {row.numpy().tobytes() for row in training.clean}
    assert not any(row.numpy().tobytes() in rows for row in training.held_out)


def test_too_many_held_out_images_are_refused(trusted):
    with pytest.raises(InputError, match=r"120 images, and denoiser\.held_out=110 are kept apart"):
        Training(trusted, params(held_out=110), STEPS)


@pytest.mark.skipif(has_fast_bfloat16(torch.device("cpu")), reason="this processor multiplies bfloat16")
def test_bfloat16_is_refused_where_it_is_emulated(trusted):
    with pytest.raises(InputError, match=r"denoiser\.precision=bfloat16"):
        Training(trusted, params(precision="bfloat16"), STEPS)


@pytest.mark.skipif(not has_fast_bfloat16(torch.device("cpu")), reason="this processor emulates bfloat16")
def test_bfloat16_learns_as_well(trusted, tmp_path):
    wanted = params(steps=150, held_out=20, precision="bfloat16")
    assert train_denoiser(trusted, wanted, tmp_path / "made")[1]["0.5"] > 9
