"""An attacker sees images as the victim's sanitizer makes them, or moved at random; with gradients."""

import numpy as np
import pytest
import torch
from filled import filled
from redteam_sets import RECIPE

from cleanlabel.redteam.attacks.bullseye_polytope import BullseyePolytope
from cleanlabel.redteam.attacks.crafting import pixels_of, seen_features
from cleanlabel.redteam.threat.attacker import Budget, Knowledge, Target
from cleanlabel.redteam.threat.victims import Victim
from cleanlabel.redteam.threat.views import MovedAtRandom, ThroughSanitizer
from cleanlabel.sanitize.errors import InputError


def test_the_view_is_the_sanitizer_but_for_rounding(denoiser, small_set):
    pixels = pixels_of(small_set.images[:5])
    generator = torch.Generator().manual_seed(4)
    seen = ThroughSanitizer(denoiser, 0.3, chances=2)(pixels, generator)
    noise = torch.randn((2, *pixels.shape), generator=torch.Generator().manual_seed(4))
    for view, drawn in zip(seen, noise, strict=True):
        torch.testing.assert_close(view, denoiser.denoise(pixels + 0.3 * drawn, 0.3), rtol=0, atol=0.03)
    assert not torch.equal(seen[0], seen[1])


def test_gradients_reach_the_pixels(denoiser, small_set):
    pixels = pixels_of(small_set.images[:3]).requires_grad_()
    view = ThroughSanitizer(denoiser, 0.1)
    (gradient,) = torch.autograd.grad(view(pixels, torch.Generator().manual_seed(0)).square().sum(), pixels)
    assert gradient.isfinite().all()
    assert (gradient.flatten(1).abs().sum(dim=1) > 0).all()


def test_an_adaptive_bullseye_hits_nearer_once_sanitized_than_a_blind_one(denoiser, small_set):
    net = Victim("scratch", RECIPE, 3, small_set.image_shape).trained(small_set.images, small_set.labels, 0)
    goal, budget = Target(small_set.images[0], 0, 1), Budget(6, 128 / 255)
    view = ThroughSanitizer(denoiser, 0.2, chances=4)
    rows = np.flatnonzero(small_set.labels == 1)[:6]
    attack = BullseyePolytope(steps=60, rate=0.02)
    known = Knowledge((net,), small_set, rows, view)
    adaptive = attack.craft(goal, known, budget, 0)
    blind = attack.craft(goal, Knowledge((net,), small_set, rows), budget, 0)
    assert adaptive.within(budget)

    def missed(images) -> float:
        fresh = Knowledge((net,), small_set, rows, ThroughSanitizer(denoiser, 0.2, chances=64))
        with torch.no_grad():
            found = seen_features(net, fresh, pixels_of(images), torch.Generator().manual_seed(99)).mean(dim=1)
            aim = net.network(2 * pixels_of(goal.image[None]) - 1)
        return float((found - aim).norm(dim=1).mean())

    assert missed(adaptive.images) < missed(blind.images) < missed(adaptive.base)


def test_a_sigma_out_of_reach_or_no_chances_is_refused(denoiser):
    with pytest.raises(InputError, match="exceeds the schedule's largest noise level"):
        ThroughSanitizer(denoiser, 1e9)
    with pytest.raises(InputError, match="chances=0: the attacker averages over at least one noise"):
        ThroughSanitizer(denoiser, 0.1, chances=0)


def test_a_moved_image_is_a_part_of_the_image_in_a_black_frame_mirrored_or_not(small_set):
    pixels = pixels_of(small_set.images[:40])
    (seen,) = MovedAtRandom(1)(pixels, torch.Generator().manual_seed(0))
    framed = torch.nn.functional.pad(pixels, (1, 1, 1, 1))
    h, w = pixels.shape[2:]
    found = set()
    for i, image in enumerate(filled(seen)):
        parts = {(y, x): framed[i, :, y : y + h, x : x + w] for y in range(3) for x in range(3)}
        both = parts | {(*at, "flip"): part.flip(2) for at, part in parts.items()}
        match = [at for at, part in both.items() if torch.allclose(part, image, atol=1e-6)]
        assert match
        found.add(match[0])
    assert len(found) > 10  # of 18


def test_a_moved_image_passes_gradients_to_the_pixels_that_are_still_there(small_set):
    pixels = pixels_of(small_set.images[:4]).requires_grad_()
    view = MovedAtRandom(2)(pixels, torch.Generator().manual_seed(0))
    (gradient,) = torch.autograd.grad(view.sum(), pixels)
    inner = gradient[:, :, 2:-2, 2:-2]
    assert torch.allclose(inner, torch.ones_like(inner))
    assert set(gradient.unique().round().tolist()) <= {0.0, 1.0}
