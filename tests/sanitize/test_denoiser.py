"""The one-step denoiser: diffusers' own step, an analytic optimum, and what it refuses."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tiny import save_tiny_denoiser

from cleanlabel.sanitize.denoiser import load_denoiser
from cleanlabel.sanitize.denoiser_files import copy_denoiser, digest_of, find_denoiser
from cleanlabel.sanitize.errors import InputError

PREDICTIONS = ("epsilon", "v_prediction", "sample")


def saved(directory: Path, out_channels: int = 1, schedule: dict[str, object] | None = None) -> Path:
    """A tiny denoiser of any kind on disk: with a learned variance it has two output channels an input channel."""
    return save_tiny_denoiser(directory, out_channels=out_channels, **(schedule or {}))


@pytest.mark.parametrize(
    ("out_channels", "schedule"),
    [(1, {"prediction_type": prediction}) for prediction in PREDICTIONS]
    + [(2, {"prediction_type": prediction, "variance_type": "learned_range"}) for prediction in PREDICTIONS]
    + [
        (1, {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}),
        (1, {"beta_schedule": "squaredcos_cap_v2"}),
        (1, {"num_train_timesteps": 250, "beta_end": 0.08}),
        (2, {"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 4000, "variance_type": "learned_range"}),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else str(value),
)
def test_it_predicts_what_diffusers_own_step_predicts(tmp_path, out_channels, schedule):
    from diffusers import DDPMScheduler

    denoiser = load_denoiser(saved(tmp_path, out_channels, schedule))
    scheduler = DDPMScheduler.from_pretrained(tmp_path / "scheduler")
    for sigma in (0.1, 0.25, 0.5, 1.0):
        t = denoiser.timestep(sigma)
        noised = torch.rand(5, 1, 8, 8) + sigma * torch.randn(5, 1, 8, 8)
        x_t = scheduler.alphas_cumprod[t].sqrt() * (2 * noised - 1)
        with torch.inference_mode():
            output = denoiser.unet(x_t, t).sample
            reference = scheduler.step(output, t, x_t, generator=torch.Generator()).pred_original_sample
        torch.testing.assert_close(denoiser.denoise(noised, sigma), (reference + 1) / 2, atol=1e-5, rtol=0)


@pytest.mark.parametrize("sigma", [0.25, 1.0])
@pytest.mark.parametrize("learned_variance", [False, True])
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_with_the_optimal_network_it_returns_the_posterior_mean(denoiser, prediction, learned_variance, sigma):
    # Data N(mu, s^2) in [-1,1] units: E[x | x_t] is closed-form, and so are the best eps and v.
    mu, s = 0.1, 0.05

    def optimal(x_t: torch.Tensor, t: torch.Tensor) -> SimpleNamespace:
        a = denoiser.alphas_cumprod[t]
        x = (s**2 * a.sqrt() * x_t + (1 - a) * mu) / (a * s**2 + 1 - a)
        epsilon = (x_t - a.sqrt() * x) / (1 - a).sqrt()
        best = {"epsilon": epsilon, "v_prediction": a.sqrt() * epsilon - (1 - a).sqrt() * x, "sample": x}[prediction]
        return SimpleNamespace(sample=torch.cat([best, torch.randn_like(best)], 1) if learned_variance else best)

    ideal = replace(denoiser, unet=optimal, prediction=prediction)
    clean = mu + s * torch.randn(64, 1, 8, 8)
    noised = (clean + 1) / 2 + sigma * torch.randn(64, 1, 8, 8)
    a = denoiser.alphas_cumprod[ideal.timestep(sigma)]
    level = ((1 - a) / a).sqrt()
    posterior = (s**2 * (2 * noised - 1) + level**2 * mu) / (s**2 + level**2)
    torch.testing.assert_close(ideal.denoise(noised, sigma), (posterior.clamp(-1, 1) + 1) / 2, atol=2e-5, rtol=0)


COSINE_4000 = {"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 4000}


@pytest.mark.parametrize("rescaled", [False, True])
def test_improved_diffusions_networks_are_fed_their_4000_steps_as_1000(tmp_path, rescaled):
    path = saved(tmp_path, schedule=COSINE_4000) / "scheduler" / "scheduler_config.json"
    if rescaled:
        path.write_text(json.dumps(json.loads(path.read_text()) | {"rescale_timesteps": True}))
    fed = []

    def network(x_t: torch.Tensor, time: torch.Tensor) -> SimpleNamespace:
        fed.append(time.item())
        return SimpleNamespace(sample=x_t)

    denoiser = replace(load_denoiser(tmp_path), unet=network)
    for sigma, t in ((0.1, 475), (0.25, 1158), (0.5, 1984), (1.0, 2809)):
        denoiser.denoise(torch.rand(2, 1, 8, 8), sigma)
        assert denoiser.timestep(sigma) == t
        assert fed[-1] == (t / 4 if rescaled else t)  # 118.75 is no whole step: nothing may truncate it


def test_a_rescaled_timestep_reaches_the_embedding_as_a_fraction(tmp_path):
    path = saved(tmp_path, schedule=COSINE_4000) / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"rescale_timesteps": True}))
    denoiser = load_denoiser(tmp_path)
    embedded = denoiser.unet.time_proj(torch.tensor([118.75]))
    seen = []
    denoiser.unet.time_proj.register_forward_hook(lambda _, __, output: seen.append(output))
    denoiser.denoise(torch.rand(1, 1, 8, 8), 0.1)
    torch.testing.assert_close(seen[0], embedded, atol=0, rtol=0)


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


def test_a_unet_directory_takes_its_siblings_schedule_or_else_the_one_inside(tmp_path, denoiser_dir, monkeypatch):
    assert digest_of(denoiser_dir / "unet") == digest_of(denoiser_dir)
    monkeypatch.chdir(denoiser_dir / "unet")
    assert digest_of(Path()) == digest_of(denoiser_dir)
    alone = shutil.copytree(denoiser_dir / "unet", tmp_path / "unet")
    with pytest.raises(InputError, match=r"holds a network but no noise schedule; put its scheduler_config.json into"):
        load_denoiser(alone)
    shutil.copy(denoiser_dir / "scheduler" / "scheduler_config.json", alone)
    assert load_denoiser(alone).digest == digest_of(denoiser_dir)


def test_a_unet_directorys_copy_is_a_whole_pipeline_directory(tmp_path, denoiser_dir):
    copy_denoiser(denoiser_dir / "unet", tmp_path / "copy")
    assert digest_of(tmp_path / "copy") == digest_of(denoiser_dir)


def test_a_missing_directory_is_named():
    with pytest.raises(InputError, match="data/nothing does not exist"):
        find_denoiser("data/nothing")
    with pytest.raises(InputError, match=r"\./x/y does not exist"):
        find_denoiser("./x/y")


def test_a_hub_id_without_a_network_says_how_to_fetch_it():
    with pytest.raises(InputError, match="hf download google/ddpm-cifar10-32 --local-dir"):
        find_denoiser("google/ddpm-cifar10-32")
    with pytest.raises(InputError, match="--local-dir data/pretrained/denoiser --revision 0123abc"):
        find_denoiser("google/ddpm-cifar10-32", revision="0123abc")


def test_a_missing_file_is_named(tmp_path, denoiser_dir):
    broken = shutil.copytree(denoiser_dir, tmp_path / "broken")
    (broken / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(InputError, match="diffusion_pytorch_model.safetensors does not exist"):
        load_denoiser(broken)


def test_a_pickle_in_place_of_safetensors_is_refused_with_the_way_out(tmp_path, denoiser_dir):
    broken = shutil.copytree(denoiser_dir, tmp_path / "broken")
    weights = broken / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(InputError, match="only safetensors are read here, never a pickle: convert the .bin file"):
        load_denoiser(broken)


def test_damaged_weights_are_refused(tmp_path, denoiser_dir):
    broken = shutil.copytree(denoiser_dir, tmp_path / "broken")
    weights = broken / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(InputError, match="does not load"):
        load_denoiser(broken)


@pytest.mark.parametrize(
    ("file", "changed", "sentence"),
    [
        ("scheduler/scheduler_config.json", {"prediction_type": "flow"}, "predicts 'flow'; choose one that predicts"),
        ("scheduler/scheduler_config.json", {"beta_schedule": "bent"}, "does not define a noise schedule: bent is not"),
        ("unet/config.json", {"_class_name": "UNet2DConditionModel"}, "holds a UNet2DConditionModel"),
        ("unet/config.json", {"sample_size": [8, 16]}, "sample_size .8, 16.; a denoiser needs one square"),
        ("unet/config.json", {"sample_size": None}, "sample_size None; a denoiser needs one square"),
    ],
)
def test_what_is_no_denoiser_of_images_is_refused(tmp_path, denoiser_dir, file, changed, sentence):
    path = shutil.copytree(denoiser_dir, tmp_path / "other") / file
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))
    with pytest.raises(InputError, match=sentence):
        load_denoiser(tmp_path / "other")


def test_a_continuous_schedule_is_refused_and_not_taken_for_a_linear_one(tmp_path, denoiser_dir):
    path = shutil.copytree(denoiser_dir, tmp_path / "other") / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({"_class_name": "ScoreSdeVeScheduler", "sigma_max": 1348.0}))
    with pytest.raises(InputError, match=r"ScoreSdeVeScheduler\) is not a discrete noise schedule with betas; choose"):
        load_denoiser(tmp_path / "other")


def test_output_channels_that_are_neither_an_image_nor_an_image_and_a_variance_are_refused(tmp_path):
    with pytest.raises(InputError, match="3 output channels for 1 input channels; choose one with as many, or twice"):
        load_denoiser(saved(tmp_path, out_channels=3))


def test_a_class_conditional_network_is_refused(tmp_path):
    from diffusers import UNet2DModel

    unet = UNet2DModel.from_config(UNet2DModel.load_config(saved(tmp_path) / "unet") | {"num_class_embeds": 10})
    unet.save_pretrained(tmp_path / "unet")
    with pytest.raises(InputError, match="needs a class label with every image"):
        load_denoiser(tmp_path)


def test_another_schedulers_config_gives_the_same_schedule(tmp_path, denoiser_dir, denoiser):
    from diffusers import DDIMScheduler

    other = shutil.copytree(denoiser_dir, tmp_path / "other")
    DDIMScheduler(1000, beta_schedule="linear").save_pretrained(other / "scheduler")
    torch.testing.assert_close(load_denoiser(other).alphas_cumprod, denoiser.alphas_cumprod, atol=0, rtol=0)


def test_a_damaged_scheduler_config_is_refused(tmp_path, denoiser_dir):
    broken = shutil.copytree(denoiser_dir, tmp_path / "broken")
    (broken / "scheduler" / "scheduler_config.json").write_text(json.dumps([1]))
    with pytest.raises(InputError, match="does not hold a JSON object"):
        load_denoiser(broken)
