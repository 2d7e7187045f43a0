"""The one-step denoiser: diffusers' own step, an analytic optimum, and what it refuses."""

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from conftest import save_tiny_denoiser

from sanitize.denoiser import load_denoiser
from sanitize.denoiser_files import digest_of, find_denoiser
from sanitize.errors import InputError


@pytest.mark.parametrize("sigma", [0.1, 0.25, 0.5, 1.0])
def test_it_predicts_what_diffusers_own_step_predicts(denoiser, denoiser_dir, sigma):
    from diffusers import DDPMScheduler

    scheduler = DDPMScheduler.from_pretrained(denoiser_dir / "scheduler")
    t = denoiser.timestep(sigma)
    noised = torch.rand(5, 1, 8, 8) + sigma * torch.randn(5, 1, 8, 8)
    x_t = scheduler.alphas_cumprod[t].sqrt() * (2 * noised - 1)
    with torch.inference_mode():
        epsilon = denoiser.unet(x_t, t).sample
        reference = scheduler.step(epsilon, t, x_t, generator=torch.Generator()).pred_original_sample
    torch.testing.assert_close(denoiser.denoise(noised, sigma), (reference + 1) / 2, atol=1e-5, rtol=0)


@pytest.mark.parametrize("sigma", [0.25, 1.0])
def test_with_the_optimal_network_it_returns_the_posterior_mean(denoiser, sigma):
    # Data N(mu, s^2) in [-1,1] units: the best eps is closed-form, and so is E[x | noised].
    mu, s = 0.1, 0.05

    def optimal(x_t: torch.Tensor, t: int) -> SimpleNamespace:
        a = denoiser.alphas_cumprod[t]
        mean = (s**2 * a.sqrt() * x_t + (1 - a) * mu) / (a * s**2 + 1 - a)
        return SimpleNamespace(sample=(x_t - a.sqrt() * mean) / (1 - a).sqrt())

    ideal = replace(denoiser, unet=optimal)
    clean = mu + s * torch.randn(64, 1, 8, 8)
    noised = (clean + 1) / 2 + sigma * torch.randn(64, 1, 8, 8)
    level = (
        (1 - denoiser.alphas_cumprod[ideal.timestep(sigma)]) / denoiser.alphas_cumprod[ideal.timestep(sigma)]
    ) ** 0.5
    posterior = (s**2 * (2 * noised - 1) + level**2 * mu) / (s**2 + level**2)
    torch.testing.assert_close(ideal.denoise(noised, sigma), (posterior.clamp(-1, 1) + 1) / 2, atol=2e-5, rtol=0)


def test_denoising_consumes_no_global_randomness(denoiser):
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    denoiser.denoise(torch.full((2, 1, 8, 8), 0.5), 0.5)
    torch.testing.assert_close(torch.rand(3), expected, atol=0, rtol=0)


def test_the_digest_changes_with_the_weights_and_with_the_schedule(tmp_path, denoiser_dir):
    same = shutil.copytree(denoiser_dir, tmp_path / "same")
    assert digest_of(same) == digest_of(denoiser_dir)
    (same / "scheduler" / "scheduler_config.json").write_text("{}")
    assert digest_of(same) != digest_of(denoiser_dir)
    other = save_tiny_denoiser(tmp_path / "other", channels=3)
    assert digest_of(other) != digest_of(denoiser_dir)


def test_a_flat_directory_loads_like_a_nested_one(tmp_path, denoiser_dir):
    flat = tmp_path / "flat"
    shutil.copytree(denoiser_dir / "unet", flat)
    shutil.copy(denoiser_dir / "scheduler" / "scheduler_config.json", flat)
    assert load_denoiser(flat).digest == digest_of(denoiser_dir)


def test_a_missing_directory_is_named():
    with pytest.raises(InputError, match="data/nothing does not exist"):
        find_denoiser("data/nothing")
    with pytest.raises(InputError, match=r"\./x/y does not exist"):
        find_denoiser("./x/y")


def test_a_hub_id_without_a_network_says_how_to_fetch_it():
    with pytest.raises(InputError, match="hf download google/ddpm-cifar10-32 --local-dir"):
        find_denoiser("google/ddpm-cifar10-32")


def test_a_missing_file_is_named(tmp_path, denoiser_dir):
    broken = shutil.copytree(denoiser_dir, tmp_path / "broken")
    (broken / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(InputError, match="diffusion_pytorch_model.safetensors does not exist"):
        load_denoiser(broken)


def test_damaged_weights_are_refused(tmp_path, denoiser_dir):
    broken = shutil.copytree(denoiser_dir, tmp_path / "broken")
    weights = broken / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(InputError, match="does not load"):
        load_denoiser(broken)


def test_another_kind_of_prediction_is_refused(tmp_path):
    model = save_tiny_denoiser(tmp_path / "v", prediction_type="v_prediction")
    with pytest.raises(InputError, match="predicts 'v_prediction'"):
        load_denoiser(model)


def test_a_damaged_scheduler_config_is_refused(tmp_path, denoiser_dir):
    broken = shutil.copytree(denoiser_dir, tmp_path / "broken")
    (broken / "scheduler" / "scheduler_config.json").write_text(json.dumps([1]))
    with pytest.raises(InputError, match="holds no JSON object"):
        load_denoiser(broken)
