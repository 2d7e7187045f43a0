"""Denoisers that are not whole: weights that lack, do not fit or are not finite, schedules that are none."""

import json
import math
import random
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import FIXED, save_tiny_denoiser

from cleanlabel.sanitize.copies import make_copy
from cleanlabel.sanitize.denoiser import load_denoiser
from cleanlabel.sanitize.denoiser_files import WEIGHTS, copy_denoiser, digest_of, find_denoiser
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.fast import accelerate
from cleanlabel.sanitize.imageset import save_npz
from cleanlabel.sanitize.quality import worse_than_noise
from cleanlabel.sanitize.sanitizer import sanitize, sanitize_batch
from cleanlabel.sanitize.sources import open_source


@pytest.fixture
def broken(tmp_path: Path, denoiser_dir: Path) -> Path:
    """A copy of a sound denoiser, for a test to break."""
    return Path(shutil.copytree(denoiser_dir, tmp_path / "broken"))


def change_weights(directory: Path, **changed: torch.Tensor | None) -> None:
    """Set weights by their key (dots as double underscores), or take them out."""
    path = directory / "unet" / WEIGHTS
    weights = load_file(path)
    for name, value in changed.items():
        key = name.replace("__", ".")
        if value is None:
            del weights[key]
        else:
            weights[key] = value
    save_file(weights, path)


def change_json(path: Path, **changed: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))


def test_a_missing_weight_is_named_and_not_filled_with_random_numbers(broken):
    change_weights(broken, conv_in__weight=None)
    with pytest.raises(InputError, match=r"\(missing: conv_in\.weight\); download the denoiser again"):
        load_denoiser(broken)


def test_several_missing_weights_are_counted(broken):
    change_weights(broken, conv_in__weight=None, conv_out__bias=None)
    with pytest.raises(InputError, match=r"\(missing: conv_in\.weight and 1 more\)"):
        load_denoiser(broken)


def test_a_weight_that_the_config_does_not_know_is_named(broken):
    change_weights(broken, extra__weight=torch.ones(2))
    with pytest.raises(InputError, match=r"\(unknown to it: extra\.weight\)"):
        load_denoiser(broken)


def test_a_weight_of_another_shape_is_named(broken):
    change_weights(broken, conv_out__bias=torch.ones(7))
    with pytest.raises(InputError, match=r"\(of another shape: conv_out\.bias\)"):
        load_denoiser(broken)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_weight_that_is_not_finite_is_named(broken, value):
    change_weights(broken, conv_out__bias=torch.full((1,), value))
    with pytest.raises(InputError, match=r"the weight conv_out\.bias in .* is not finite"):
        load_denoiser(broken)


def test_weights_that_overflowed_in_half_precision_are_refused(broken):
    change_weights(broken, conv_out__bias=torch.tensor([1e6]).half())
    with pytest.raises(InputError, match="is not finite .* full precision"):
        load_denoiser(broken)


@pytest.mark.parametrize("mode", ["float32", "bfloat16", None])
def test_an_answer_that_is_not_finite_is_refused_with_the_image_and_the_timestep(broken, small_set, mode):
    change_weights(broken, conv_out__weight=torch.full((1, 8, 3, 3), 3e38))  # finite, and overflows when it is used
    denoiser = load_denoiser(broken)
    fast = accelerate(denoiser, 0.5, 24, mode=mode) if mode else None
    sentence = rf"is not finite for 24 of 24 images at timestep 259, the first is {small_set.ids[0]};"
    with pytest.raises(InputError, match=sentence):
        sanitize(small_set, 0.5, denoiser, FIXED, denoise=fast, batch=24)


def test_nothing_is_written_where_answers_are_not_finite(broken, small_set, tmp_path):
    change_weights(broken, conv_out__weight=torch.full((1, 8, 3, 3), 3e38))
    save_npz(small_set, tmp_path / "in.npz")
    command = [sys.executable, "-m", "sanitize", "--input", tmp_path / "in.npz", "--output", tmp_path / "out.npz"]
    run = subprocess.run(
        [*command, "--denoiser", broken, "--sigma", "0.5"], capture_output=True, text=True, check=False
    )
    assert run.returncode == 1
    assert "is not finite" in run.stderr
    assert "Traceback" not in run.stderr
    assert not (tmp_path / "out.npz").exists()


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"beta_start": 0.02, "beta_end": 0.0001}, "betas that fall from 0.02 to 0.0001, but in a noise schedule"),
        ({"num_train_timesteps": 1}, "num_train_timesteps=1; a noise schedule has 2 to 100,000 steps"),
        ({"num_train_timesteps": 10**9}, "num_train_timesteps=1000000000; a noise"),
        ({"num_train_timesteps": "1000"}, "num_train_timesteps='1000'"),
        ({"num_train_timesteps": None}, "num_train_timesteps=None"),
        ({"trained_betas": [0.1, 0.2]}, "2 betas for num_train_timesteps=1000"),
        ({"num_train_timesteps": 3, "trained_betas": [0.1, math.nan, 0.2]}, "betas from nan"),
        ({"num_train_timesteps": 3, "trained_betas": [0.1, 0.2, 1.5]}, "betas from 0.1 to 1.5, but a noise schedule's"),
        ({"num_train_timesteps": 3, "trained_betas": [-0.1, 0.2, 0.3]}, "betas from -0.1"),
        ({"beta_start": 0.0, "beta_end": 0.0}, "betas from 0 to 0"),
        ({"beta_start": "a"}, "does not define a noise schedule"),
        ({"beta_schedule": "wild"}, "does not define a noise schedule"),
        ({"_class_name": "KarrasVeScheduler"}, r"\(KarrasVeScheduler\) is not a discrete noise schedule with betas"),
        ({"_class_name": "ScoreSdeVeScheduler"}, r"\(ScoreSdeVeScheduler\) is not a discrete noise schedule"),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, "is not a discrete noise schedule"),
    ],
)
def test_a_schedule_that_is_no_noise_schedule_is_refused(broken, changed, sentence):
    change_json(broken / "scheduler" / "scheduler_config.json", **changed)
    with pytest.raises(InputError, match=sentence):
        load_denoiser(broken)


def test_a_schedule_that_ends_in_pure_noise_is_one(broken):
    change_json(broken / "scheduler" / "scheduler_config.json", rescale_betas_zero_snr=True)
    assert load_denoiser(broken).timestep(0.5) > 1


def test_weights_in_parts_and_in_half_precision_are_the_same_denoiser(tmp_path, denoiser_dir):
    from diffusers import UNet2DModel

    unet = UNet2DModel.from_pretrained(denoiser_dir / "unet")
    whole = load_denoiser(denoiser_dir)
    for name, how in {
        "parts": {"max_shard_size": "20KB"},
        "fp16": {"variant": "fp16"},
        "fp16-parts": {"variant": "fp16", "max_shard_size": "20KB"},
    }.items():
        directory = tmp_path / name
        shutil.copytree(denoiser_dir / "scheduler", directory / "scheduler")
        unet.save_pretrained(directory / "unet", safe_serialization=True, **how)
        assert not (directory / "unet" / WEIGHTS).exists()
        other = load_denoiser(directory)
        for key, weight in whole.unet.state_dict().items():
            torch.testing.assert_close(other.unet.state_dict()[key], weight)
        copy_denoiser(directory, tmp_path / f"{name}-copy")
        assert digest_of(tmp_path / f"{name}-copy") == digest_of(directory) == other.digest != whole.digest
        load_denoiser(tmp_path / f"{name}-copy")


def parts(tmp_path: Path, denoiser_dir: Path) -> Path:
    from diffusers import UNet2DModel

    directory = tmp_path / "parts"
    shutil.copytree(denoiser_dir / "scheduler", directory / "scheduler")
    UNet2DModel.from_pretrained(denoiser_dir / "unet").save_pretrained(directory / "unet", max_shard_size="20KB")
    return directory


def test_a_missing_part_and_a_part_elsewhere_are_refused(tmp_path, denoiser_dir):
    directory = parts(tmp_path, denoiser_dir)
    index = directory / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    content = json.loads(index.read_text())
    first = sorted(set(content["weight_map"].values()))[0]
    (directory / "unet" / first).unlink()
    with pytest.raises(InputError, match=f"{first} does not exist, and .*index.json names it; copy all parts there"):
        load_denoiser(directory)
    for elsewhere in ("../../secret.safetensors", "/etc/weights.safetensors", "weights.bin"):
        index.write_text(json.dumps({"weight_map": {"a": elsewhere}}))
        with pytest.raises(InputError, match=r"which is not a safetensors file beside it; restore it"):
            load_denoiser(directory)
    index.write_text(json.dumps({"weight_map": []}))
    with pytest.raises(InputError, match="names no parts in its weight_map"):
        load_denoiser(directory)


def test_a_file_in_a_directorys_place_is_called_a_file(denoiser_dir):
    weights = denoiser_dir / "unet" / WEIGHTS
    for read in (load_denoiser, lambda path: find_denoiser(str(path))):
        with pytest.raises(InputError, match=f"is a file; give the directory that holds .* perhaps {denoiser_dir}"):
            read(weights)


def test_a_denoiser_that_does_harm_is_said_loudly(denoiser, small_set, tmp_path):
    words = worse_than_noise(small_set.images, small_set.ids, 0.01, denoiser)  # random weights, hardly any noise
    assert words is not None
    assert "the denoiser makes images worse than the noise alone: PSNR to the input " in words
    assert "at sigma=0.01 (24 images compared); choose a denoiser that was trained on images like these" in words
    save_npz(small_set, tmp_path / "in.npz")
    warned: list[str] = []
    source = open_source(tmp_path / "in.npz")
    make_copy(source, tmp_path / "out.npz", 0.01, denoiser, "fixed:01", 0, warn=warned.append)
    assert len(warned) == 1
    assert "worse than the noise alone" in warned[0]


def test_a_denoiser_that_helps_is_not_warned_of(denoiser, small_set):
    helps = lambda noised: torch.full_like(noised, float(small_set.images.mean()) / 255)  # noqa: E731
    assert worse_than_noise(small_set.images, small_set.ids, 1.0, denoiser, denoise=helps) is None


ODD = [None, True, -1, 0, 1, 2, 7, 10**9, 0.5, math.nan, "", "x", "DownBlock2D", [], [8, 8], ["x"], {}, {"a": 1}]


@pytest.mark.parametrize("file", ["unet/config.json", "scheduler/scheduler_config.json"])
def test_no_exception_but_ours_leaves_the_loader(tmp_path, denoiser_dir, file):
    """Seeded: every key of the file set to odd values, and bytes of it changed."""
    generator, refused = random.Random(0), 0
    directory = Path(shutil.copytree(denoiser_dir, tmp_path / "odd"))
    path = directory / file
    sound = path.read_text()
    keys = sorted(json.loads(sound))
    huge = {"block_out_channels", "layers_per_block", "sample_size", "num_train_timesteps"}
    for _ in range(60):
        if generator.random() < 0.75:
            key = generator.choice(keys)
            value = generator.choice([odd for odd in ODD if not (key in huge and odd == 10**9)])
            path.write_text(json.dumps(json.loads(sound) | {key: value}))
        else:
            text = bytearray(sound.encode())
            text[generator.randrange(len(text))] = generator.randrange(256)
            path.write_bytes(text)
        try:
            load_denoiser(directory)
        except InputError:
            refused += 1
    assert 20 < refused < 60


def test_a_denoiser_of_two_channels_meets_no_image(tmp_path):
    directory = save_tiny_denoiser(tmp_path, channels=2)
    assert load_denoiser(directory).facts.channels == 2
    images = np.zeros((2, 8, 8, 3), np.uint8)
    with pytest.raises(InputError, match="a denoiser of 2 channels cannot take images of 3"):
        sanitize_batch(images, ["a", "b"], 0.5, load_denoiser(directory), FIXED, 0)
