"""Rule 3: the timestep only tells the network how noisy its input is, by the published rule."""

import math

import numpy as np
import pytest

from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.timestep import largest_sigma, timestep_for

LINEAR_1000 = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))


def cosine(steps: int) -> np.ndarray:
    """Nichol & Dhariwal 2021, eq. 17, with their clipping of beta at 0.999."""

    def f(s: float) -> float:
        return math.cos((s + 0.008) / 1.008 * math.pi / 2) ** 2

    betas = [min(1 - f((i + 1) / steps) / f(i / steps), 0.999) for i in range(steps)]
    return np.cumprod(1 - np.array(betas))


COSINE_4000 = cosine(4000)


@pytest.mark.parametrize(
    ("sigma", "linear", "cosine_4000"),
    [
        (0.05, 27, 225),
        (0.10, 58, 475),
        (0.12, 70, 573),
        (0.20, 117, 945),
        (0.25, 145, 1158),
        (0.50, 259, 1984),
        (0.75, 339, 2490),
        (1.00, 396, 2809),
        (1.50, 475, 3174),
    ],
)
def test_published_timesteps(sigma, linear, cosine_4000):
    assert timestep_for(sigma, LINEAR_1000) == linear
    assert timestep_for(sigma, COSINE_4000) == cosine_4000


@pytest.mark.parametrize("sigma", [0.001, 0.03, 0.3, 2.0, 40.0, 78.0])
def test_the_first_timestep_noisy_enough_is_taken(sigma):
    t = timestep_for(sigma, LINEAR_1000)
    levels = np.sqrt((1 - LINEAR_1000) / LINEAR_1000) / 2
    assert t >= 1
    assert levels[t] >= sigma
    assert t == 1 or levels[t - 1] < sigma


def test_index_zero_is_never_taken():
    assert timestep_for(1e-6, LINEAR_1000) == 1


@pytest.mark.parametrize("sigma", [80, 1000])
def test_a_sigma_beyond_the_schedule_is_refused_with_the_limit(sigma):
    with pytest.raises(InputError, match=rf"sigma={sigma} exceeds the schedule's largest noise level 78.7 .* smaller"):
        timestep_for(sigma, LINEAR_1000)


def test_a_schedule_that_ends_in_pure_noise_reaches_as_far_as_anything_is_left():
    ends_in_noise = np.append(LINEAR_1000[:400], 0.0)
    assert timestep_for(1.0, ends_in_noise) == 396
    assert largest_sigma(ends_in_noise) == pytest.approx(np.sqrt((1 - LINEAR_1000[399]) / LINEAR_1000[399]) / 2)
    with pytest.raises(InputError, match="exceeds the schedule's largest noise level"):
        timestep_for(2.0, ends_in_noise)


@pytest.mark.parametrize(
    ("schedule", "steps"), [("linear", 1000), ("scaled_linear", 1000), ("squaredcos_cap_v2", 4000), ("linear", 50)]
)
def test_diffusers_own_schedules_give_a_level_just_above_sigma(schedule, steps):
    from diffusers import DDPMScheduler

    alphas_bar = DDPMScheduler(steps, beta_schedule=schedule).alphas_cumprod.double().numpy()
    levels = np.sqrt((1 - alphas_bar) / alphas_bar) / 2
    for sigma in np.geomspace(levels[1], levels[-1] * 0.999, 17):
        t = timestep_for(sigma, alphas_bar)
        assert levels[t] >= sigma
        assert t == 1 or levels[t - 1] < sigma


@pytest.mark.parametrize("sigma", [0.0, -1.0, float("nan"), float("inf")])
def test_what_is_no_noise_level_is_refused(sigma):
    with pytest.raises(InputError, match="is not a valid noise level"):
        timestep_for(sigma, LINEAR_1000)
