"""Witches' Brew and the gradient matching under it, on digits."""

import numpy as np
import pytest
import torch
from filled import filled
from redteam_parts import TwoChances, digits, falls, known_networks, right, state_of, target, trained, victim
from torch import nn
from torch.nn import functional

from benchmarks.crafting.published import gradient_norms_one_by_one
from cleanlabel.models.extractors import Extractor
from cleanlabel.models.training import predict
from cleanlabel.redteam.attacks import attack_named
from cleanlabel.redteam.attacks.crafting import pixels_of
from cleanlabel.redteam.attacks.gradient_matching import Mismatch, adversarial_gradient, loss_gradient, trainable
from cleanlabel.redteam.attacks.witches_brew import WitchesBrew
from cleanlabel.redteam.threat.attacker import Budget, Knowledge
from cleanlabel.sanitize.errors import InputError

CLEAN, _ = digits()
QUICK = WitchesBrew(steps=25, restarts=1, shift=0, flip=False)
LARGE = Budget(100, 0.5)
GOALS = ((3, 8), (1, 7), (5, 6), (8, 1), (4, 9), (0, 2))


def known(**others) -> Knowledge:
    return Knowledge(known_networks(), CLEAN, **others)


def test_half_of_the_targets_and_more_are_taken_for_the_intended_class_by_victims_trained_from_scratch():
    attack, networks = WitchesBrew(steps=60, restarts=1, shift=0, flip=False), known_networks(4)
    taken = before = 0
    for label, intended in GOALS:
        goal = target(label, intended)
        poisons = attack.craft(goal, Knowledge(networks, CLEAN), LARGE, 0)
        model = trained(poisons.injected(CLEAN), 7)
        assert right(model) > 0.9
        taken += int(predict(model, goal.image[None])[0] == intended)
        before += int(predict(victim(7), goal.image[None])[0] == intended)
    assert before == 0
    assert taken >= len(GOALS) / 2


@pytest.mark.parametrize("budget", [Budget(20, 16 / 255), Budget(20, 1.0, "l2")], ids=["linf", "l2"])
def test_the_mismatch_falls_and_the_budget_holds_after_rounding(budget):
    poisons = QUICK.craft(target(3, 8), known(), budget, 0)
    assert falls(poisons)
    assert len(poisons.history) == QUICK.steps + 1
    assert poisons.within(budget)
    assert (CLEAN.labels[poisons.rows] == 8).all()


def test_the_same_seed_gives_the_same_poisons_and_another_target_gives_others():
    first = QUICK.craft(target(3, 8), known(), Budget(10, 0.1), 0)
    again = QUICK.craft(target(3, 8), known(), Budget(10, 0.1), 0)
    other = QUICK.craft(target(3, 8, which=1), known(), Budget(10, 0.1), 0)
    assert (first.images == again.images).all()
    assert first.history == again.history
    assert (first.rows == other.rows).all()
    assert (first.images != other.images).any()


def test_of_several_restarts_the_lowest_is_kept():
    told: list[float] = []
    attack = WitchesBrew(steps=5, restarts=4, shift=0, flip=False)
    poisons = attack.craft(target(3, 8), known(tick=told.append), Budget(10, 0.1), 0)
    single = WitchesBrew(steps=5, restarts=1, shift=0, flip=False).craft(target(3, 8), known(), Budget(10, 0.1), 0)
    assert len(told) == 4 * 5
    assert poisons.history[-1] <= single.history[-1]
    assert list(poisons.history[:-1]) in [told[i : i + 5] for i in range(0, 20, 5)]


def test_the_networks_that_were_lent_come_back_frozen_and_unchanged():
    networks = known_networks(2)
    before = state_of(networks)
    QUICK.craft(target(3, 8), Knowledge(networks, CLEAN), Budget(5, 0.1), 0)
    assert all(torch.equal(a, b) for a, b in zip(filled(before), state_of(networks), strict=True))


def test_augmentation_moves_what_is_matched_and_follows_from_the_seed():
    augmented = WitchesBrew(steps=10, restarts=1, shift=1, flip=True)
    first, again = (augmented.craft(target(3, 8), known(), Budget(10, 0.1), 0) for _ in range(2))
    plain = WitchesBrew(steps=10, restarts=1, shift=0, flip=False).craft(target(3, 8), known(), Budget(10, 0.1), 0)
    assert (first.images == again.images).all()
    assert (first.images != plain.images).any()
    assert falls(augmented.craft(target(3, 8), known(), Budget(60, 0.2), 0))


def test_what_is_matched_is_one_minus_the_cosine_over_all_parameters():
    net = known_networks()[0]
    pixels = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    model = trainable(net)
    aim = adversarial_gradient(model, pixels[:1], 4)
    value = Mismatch([model], [aim], 2, known(), 0, False, torch.Generator())(pixels)
    flat = []
    for batch, label in ((pixels[:1], 4), (pixels, 2)):
        total = functional.cross_entropy(model(2 * batch - 1), torch.full((len(batch),), label), reduction="mean")
        flat.append(torch.cat([g.flatten() for g in torch.autograd.grad(total, model.parameters())]))
    assert float(value) == pytest.approx(1 - float(flat[0] @ flat[1] / flat[0].norm() / flat[1].norm()), abs=1e-5)


def test_every_chance_of_the_view_is_matched_by_itself():
    net = known_networks()[0]
    model, pixels = trainable(net), torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    aim, generator = adversarial_gradient(model, pixels[:1], 4), torch.Generator().manual_seed(5)
    value = Mismatch([model], [aim], 2, known(view=TwoChances()), 0, False, generator)(pixels)
    chances = TwoChances()(pixels, torch.Generator().manual_seed(5))
    each = [1 - functional.cosine_similarity(loss_gradient(model, c, 2), aim, dim=0) for c in chances]
    assert float(value) == pytest.approx(float(sum(each)) / 2, abs=1e-5)


def test_the_attack_goes_through_the_view():
    view = TwoChances()
    seen = QUICK.craft(target(3, 8), known(view=view), Budget(40, 0.2), 0)
    plain = QUICK.craft(target(3, 8), known(), Budget(40, 0.2), 0)
    assert view.asked == QUICK.steps + 1
    assert (seen.images != plain.images).any()
    assert falls(seen)


def test_gradients_reach_the_pixels_through_shift_and_flip():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 3))
    aim = functional.normalize(torch.randn(sum(p.numel() for p in model.parameters())), dim=0)
    objective = Mismatch([model], [aim], 1, known(), 1, True, torch.Generator().manual_seed(0))
    pixels = torch.rand(8, 1, 8, 8, requires_grad=True)
    (gradient,) = torch.autograd.grad(objective(pixels), pixels)
    assert gradient.isfinite().all()
    assert (gradient.flatten(1).abs().sum(dim=1) > 0).all()


def test_more_poisons_than_the_class_has_images_are_refused():
    own = int(np.sum(CLEAN.labels == 8))
    sentence = rf"{own + 1} poisons are more than class '8' has images \({own}\); lower the count"
    with pytest.raises(InputError, match=sentence):
        QUICK.craft(target(3, 8), known(), Budget(own + 1, 0.1), 0)


def test_bases_that_are_given_are_used():
    rows = np.flatnonzero(CLEAN.labels == 8)[3:13]
    poisons = QUICK.craft(target(3, 8), known(bases=rows), Budget(10, 0.1), 0)
    assert poisons.rows.tolist() == rows.tolist()
    assert poisons.base.tolist() == CLEAN.images[rows].tolist()


def test_the_hardest_bases_are_taken_where_that_is_asked_for():
    attack = WitchesBrew(steps=5, restarts=1, shift=0, flip=False, hardest=True)
    poisons = attack.craft(target(3, 8), known(), Budget(7, 0.1), 0)
    own = np.flatnonzero(CLEAN.labels == 8)
    norms = gradient_norms_one_by_one(trainable(known_networks()[0]), pixels_of(CLEAN.images[own]), 8).numpy()
    assert set(poisons.rows) == set(own[np.argsort(-norms)[:7]])


def test_the_command_line_knows_it_with_its_published_settings():
    attack = attack_named("witches-brew", {"restarts": "2", "flip": "no"})
    assert attack == WitchesBrew(steps=250, restarts=2, rate=0.025, shift=4, flip=False)


def batch_normed() -> Extractor:
    """An untrained conv network whose BatchNorms have seen some images."""
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 6, 3), nn.BatchNorm2d(6))
    for _ in range(20):
        body(torch.randn(16, 1, 8, 8) + 0.3)
    return Extractor(nn.Sequential(*body, nn.ReLU(), nn.Flatten()).eval(), nn.Linear(96, 10), (8, 8, 1), "")


def test_batch_norm_with_known_statistics_has_torchs_answers_and_derivatives():
    net = batch_normed()
    pixels = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    fast, slow = trainable(net), nn.Sequential(net.network, net.head).requires_grad_()
    assert not any(isinstance(module, nn.BatchNorm2d) for module in filled(fast.modules()))
    assert torch.allclose(fast(pixels), slow(pixels), atol=1e-5)
    first, second = (loss_gradient(model, pixels, 2, graph=True) for model in (fast, slow))
    assert torch.allclose(first, second, rtol=1e-3, atol=1e-4)
    twice = [torch.autograd.grad((g**2).sum(), pixels)[0] for g in (first, second)]
    assert torch.allclose(*twice, rtol=1e-2, atol=1e-3 * float(twice[1].abs().max()))


def test_in_bfloat16_nearly_all_derivatives_keep_their_sign():
    net, generator = batch_normed(), torch.Generator().manual_seed(0)
    pixels, model = torch.rand(20, 1, 8, 8, generator=generator).requires_grad_(), trainable(net)
    aim = adversarial_gradient(model, pixels[:1].detach(), 4)
    slopes = []
    for reduced in (False, True):
        matched = Mismatch([model], [aim], 2, known(), 0, False, torch.Generator(), reduced=reduced)
        slopes.append(torch.autograd.grad(matched(pixels), pixels)[0])
    assert float((slopes[0].sign() == slopes[1].sign()).float().mean()) > 0.9
    assert float(functional.cosine_similarity(slopes[0].flatten(), slopes[1].flatten(), dim=0)) > 0.98
