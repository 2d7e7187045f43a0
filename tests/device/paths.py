"""Every path of the project that an accelerator takes, on the pretended device, compared with the CPU.

    python paths.py [NAME ...]

Prints one JSON line per path: whether its results equal the CPU's bit by bit, and how many copies and waits each unit
(a batch, a step, a draw, as named) costs: the count of three units minus that of two, so that what happens once, such
as moving the weights, does not count. Run it in a process of its own, with this folder and `tests` on the path.
"""

import json
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pretend
import torch
from models_recipes import QUICK
from numpy.typing import NDArray
from tiny import FIXED, save_tiny_denoiser
from torch import nn

from cleanlabel.models.distil import distilled
from cleanlabel.models.draw import make_batch
from cleanlabel.models.extractors import Bfloat16, CifarResNet, Extractor, features
from cleanlabel.models.heads import fit_head, fit_head_of_some
from cleanlabel.models.instrument import make_instrument
from cleanlabel.models.materials import Materials
from cleanlabel.models.params import TrainParams
from cleanlabel.models.stacked import train_stack
from cleanlabel.models.start import Start
from cleanlabel.models.training import predict, train
from cleanlabel.redteam.attacks import attack_named
from cleanlabel.redteam.defences import defence_named
from cleanlabel.redteam.defences.interface import Context
from cleanlabel.redteam.threat.attacker import Backdoor, Budget, Goal, Knowledge, Target
from cleanlabel.redteam.threat.triggers import Trigger
from cleanlabel.redteam.threat.victims import Victim, answers, answers_to_features
from cleanlabel.redteam.threat.views import ThroughSanitizer
from cleanlabel.sanitize.denoiser import Denoiser, load_denoiser
from cleanlabel.sanitize.device_noise import pixel_noise_on
from cleanlabel.sanitize.fast import accelerate
from cleanlabel.sanitize.fitting import fitting_for
from cleanlabel.sanitize.imageset import ImageSet
from cleanlabel.sanitize.sanitizer import begin_batch, sanitize

Results = Sequence[NDArray[Any]]
Run = Callable[[torch.device, int], Results]
"""The path's results on a device, for a number of units of its work."""
SIGMA = 0.5
CPU = torch.device("cpu")


@cache
def images(n: int, side: int = 8, channels: int = 1) -> ImageSet:
    pixels = np.random.default_rng(n + side).integers(0, 256, (n, side, side, channels), dtype=np.uint8)
    return ImageSet(pixels, np.arange(n) % 3, tuple(f"{i:04d}" for i in range(n)), ("a", "b", "c"), False)


@cache
def denoiser_folder(side: int, channels: int) -> Path:
    return save_tiny_denoiser(Path(tempfile.mkdtemp()), side, channels)


def denoiser(device: torch.device, side: int = 8, channels: int = 1) -> Denoiser:
    return load_denoiser(denoiser_folder(side, channels), device)


def of_model(model: nn.Module) -> Results:
    return [tensor.detach().cpu().numpy() for tensor in model.state_dict().values()]


def noise(device: torch.device, units: int) -> Results:
    raw = images(6)
    drawn = [pixel_noise_on(device, FIXED, "noise", draw, raw.ids, (8, 8, 1), SIGMA) for draw in range(units)]
    return [torch.cat(drawn).cpu().numpy()]


def sanitized(mode: str | None) -> Run:
    def run(device: torch.device, units: int) -> Results:
        whole = denoiser(device)
        fast = accelerate(whole, SIGMA, 8, mode=mode) if mode else None
        return [sanitize(images(8 * units), SIGMA, whole, FIXED, batch=8, denoise=fast)]

    return run


def fitted(fit: str, channels: int) -> Run:
    def run(device: torch.device, units: int) -> Results:
        raw, whole = images(2, 11, channels), denoiser(device)
        fitting = fitting_for(np.array([(11, 11)]), channels, whole.facts, fit)
        fitted_in = {"fitting": fitting, "batch": 8}
        begun = [begin_batch(raw.images, raw.ids, SIGMA, whole, FIXED, draw, **fitted_in) for draw in range(units)]
        return [finished() for finished in begun]

    return run


def recipe(**changes: Any) -> TrainParams:
    return QUICK.model_copy(update=changes)


def training(architecture: str, width: int = 8, side: int = 8, **changes: Any) -> Run:
    """A unit is an epoch of one step."""

    def run(device: torch.device, units: int) -> Results:
        raw = images(6, side, 3 if side == 32 else 1)
        settings = recipe(architecture=architecture, width=width, epochs=units, batch=6, **changes)
        return of_model(train(raw.images, raw.labels, 3, settings, 0, device, raw=raw.images))

    return run


def reduced(run: Run) -> Run:
    """The same where the device is said to have bfloat16: in another layout, so that the results are only close."""

    def with_bfloat16(device: torch.device, units: int) -> Results:
        with patch("cleanlabel.sanitize.device.has_fast_bfloat16", lambda _: True):
            return run(device, units)

    return close(with_bfloat16)


def close(run: Run) -> Run:
    """The same, whose results are only close to the CPU's."""
    run.close = True
    return run


def stack(device: torch.device, units: int) -> Results:
    raw = images(6)
    models = train_stack([raw.images, 255 - raw.images], raw.labels, 3, recipe(epochs=units), [0, 1], device)
    return [array for model in models for array in of_model(model)]


def prediction(device: torch.device, units: int) -> Results:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).to(device)
    return [predict(model, images(1024 * units).images, device)]


def extractor(device: torch.device = CPU) -> Extractor:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network, head = CifarResNet(1).eval(), nn.Linear(64, 3)
    return Extractor(network.requires_grad_(False).to(device), head.requires_grad_(False), (32, 32, 3), "")


def featured(*, accelerated: bool) -> Run:
    def run(device: torch.device, units: int) -> Results:
        found = extractor(device)
        if accelerated:
            found = Extractor(Bfloat16(found.network), found.head, found.image_shape, "")
        return [features(found, images(4 * units, 32, 3).images, device, batch=4).numpy()]

    return run


def distilling(device: torch.device, units: int) -> Results:
    raw = images(6, 32, 3)
    wanted = features(extractor(), raw.images)
    return of_model(distilled(extractor(), raw.images, wanted, units, device, "twin"))


def head(kind: str, *, some: bool = False) -> Run:
    def run(device: torch.device, units: int) -> Results:
        x, labels = (
            torch.randn(12, 5, generator=torch.Generator().manual_seed(0)),
            torch.arange(12) % (2 if some else 3),
        )
        prior = nn.Linear(5, 3).requires_grad_(False) if kind == "ridge" else None
        if prior is not None:
            prior.weight.copy_(torch.linspace(-1, 1, 15).view(3, 5))
            prior.bias.zero_()
        fit = fit_head_of_some if some else fit_head
        on_device = x.to(device)
        heads = [fit(on_device, labels, 3, kind, 0.1 * (1 + unit), prior) for unit in range(units)]
        return [array for one in heads for array in of_model(one)]

    return run


def draws(settings: TrainParams, side: int = 8, **others: Any) -> Run:
    """A unit is a draw of 12 images in one batch: sanitized, trained and asked."""

    def run(device: torch.device, units: int) -> Results:
        channels = 3 if side == 32 else 1
        extras = {name: value(device) if callable(value) else value for name, value in others.items()}
        parts = (images(12, side, channels), images(6, side, channels), SIGMA, denoiser(device, side, channels))
        names = {field.name for field in fields(Start)}
        start = Start(**{name: extras.pop(name) for name in names & extras.keys()})
        materials = Materials(*parts, settings, 1, start=start, device=device, **extras)
        made = list(make_batch(materials, FIXED, range(units)))
        return [made.votes for made in made] + [array for one in made for array in of_model(one.model)]

    return run


def with_memory(memory: int, run: Run) -> Run:
    """The same on a device that has so many bytes, which decide how many images are denoised at once."""

    def on_it(device: torch.device, units: int) -> Results:
        with patch("cleanlabel.sanitize.rows.memory_of", lambda _: memory):
            return run(device, units)

    return on_it


def instrument(device: torch.device) -> Any:
    drawn = np.random.default_rng(0).normal(size=(2, 90, 64))
    return make_instrument(drawn[0], drawn[1])


def small_extractor(device: torch.device) -> Extractor:
    """A small frozen network for 8x8 grey images."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network, last = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten()), nn.Linear(256, 3)
    for module in (network.eval(), last):
        module.requires_grad_(False).to(device)
    return Extractor(network, last, (8, 8, 1), "")


RAW = images(30)
TARGET = Target(images(31).images[0], 0, 1)
BACKDOOR = Backdoor(Trigger(size=2), 0, 1, images(32).images[:8])


def attacked(name: str, goal: Goal, *, through: bool = False, networks: int = 2, **settings: Any) -> Run:
    """A unit is a step of crafting."""

    def run(device: torch.device, units: int) -> Results:
        known = Knowledge((small_extractor(device),) * networks, RAW, device=device)
        if through:
            known = Knowledge(known.networks, RAW, view=ThroughSanitizer(denoiser(device), SIGMA, 2), device=device)
        attack = attack_named(name, {"steps": str(units), **{key: str(value) for key, value in settings.items()}})
        poisons = attack.craft(goal, known, Budget(4, 0.2), 0)
        return [poisons.images, np.array(poisons.history)]

    return run


def defended(name: str, scenario: str = "scratch", **settings: Any) -> Run:
    """A unit is an epoch of the victim's training, of one step each; the answers follow."""

    def run(device: torch.device, units: int) -> Results:
        known = None if scenario == "scratch" else small_extractor(device)
        used = recipe(architecture="small-cnn", epochs=units, batch=30, shift=1, flip=True)
        victim = Victim(scenario, used, 3, (8, 8, 1), known, device)
        context = Context(SIGMA, denoiser(device), FIXED)
        defence = defence_named(name, {key: str(value) for key, value in settings.items()})
        found = defence.fit(RAW, victim, context, 0)
        return [found.answers(images(9).images), np.array(found.removed)]

    return run


def asked(device: torch.device, units: int) -> Results:
    victim = Victim("fine-tune", recipe(epochs=units, batch=30), 3, (8, 8, 1), small_extractor(device), device)
    network = victim.trained(RAW.images, RAW.labels, 0)
    return [answers(network, images(9).images, device), *of_model(network.network)]


def voted(device: torch.device, units: int) -> Results:
    network = small_extractor(device)
    found = features(network, images(9).images, device)
    votes = [answers_to_features(network, found) for _ in range(units)]
    return [*votes, np.array(network.head.weight.device == device)]


TRANSFER = recipe(mode="transfer", initial_weights="x", head="lda")
MATCHING = {"shift": 1, "restarts": 1}
PATHS: dict[str, Run] = {
    "noise, a batch": noise,
    "sanitize by the slow twin, a batch": sanitized(None),
    "sanitize in float32, a batch": sanitized("float32"),
    "sanitize in bfloat16, a batch": sanitized("bfloat16"),
    "sanitize resized colour, a batch": fitted("resize", 3),
    "sanitize resized grey, a batch": fitted("resize", 1),
    "sanitize in tiles, a batch": fitted("tiles", 1),
    "train linear, a step": training("linear"),
    "train mlp, a step": training("mlp", normalise="copy"),
    "train mlp warmed on raw images, a step": training("mlp", normalise="raw", warm_epochs=1, warm_on="raw"),
    "train small-cnn, a step": training("small-cnn"),
    "train small-cnn augmented, a step": training("small-cnn", shift=1, flip=True),
    "train small-cnn on a map that 4 does not divide, a step": close(training("small-cnn", side=10)),
    "train fast-cifar, a step": training("fast-cifar", side=32, shift=2, flip=True),
    "train fast-cifar in bfloat16, a step": reduced(training("fast-cifar", side=32, shift=2, flip=True)),
    "train resnet18 in bfloat16, a step": reduced(training("resnet18", 64, side=32, shift=2, flip=True)),
    "train resnet18, a step": training("resnet18", 64, side=32, shift=2, flip=True),
    "train vgg11, a step": training("vgg11", side=32, shift=2, flip=True),
    "train mobilenet-v2, a step": training("mobilenet-v2", side=32, shift=2, flip=True),
    "train a stack, a step": stack,
    "predict, a batch": prediction,
    "features, a batch": featured(accelerated=False),
    "features in bfloat16, a batch": featured(accelerated=True),
    "distil, a step": distilling,
    **{f"head {kind}, a fit": head(kind) for kind in ("mean", "direction", "lda", "ridge", "logistic")},
    **{f"head {kind} of some classes, a fit": head(kind, some=True) for kind in ("lda", "ridge", "logistic")},
    "draws of small-cnn, a draw": draws(recipe(architecture="small-cnn", epochs=1, batch=12, shift=1)),
    "draws on a device with room for 8 rows, a draw": with_memory(
        2**20, draws(recipe(architecture="small-cnn", epochs=1, batch=12, shift=1))
    ),
    "draws of small-cnn on a scratch disk, a draw": draws(
        recipe(architecture="small-cnn", epochs=1, batch=12, shift=1), scratch=Path(tempfile.gettempdir())
    ),
    "draws of fast-cifar on a scratch disk, a draw": draws(
        recipe(architecture="fast-cifar", learning_rate=11.5, epochs=1, batch=12, shift=1, flip=True),
        32,
        scratch=Path(tempfile.gettempdir()),
    ),
    "draws of stacked mlps, a draw": draws(recipe(epochs=1, batch=12)),
    "draws with noised test images, a draw": draws(recipe(epochs=1, batch=12, shift=1), test_sigma=0.25),
    "draws of 3 blocks, a draw": draws(recipe(epochs=1, batch=12), partitions=3),
    "draws of transfer, a draw": draws(TRANSFER, 32, extractor=extractor),
    "draws of bounded influence, a draw": draws(TRANSFER, 32, extractor=extractor, instrument=instrument),
    "frogs, a step": attacked("frogs", TARGET),
    "convex, a step": attacked("convex", TARGET),
    "bullseye, a step": attacked("bullseye", TARGET),
    # a gradient is the sum of several, in another order than on the CPU
    "bullseye through the sanitizer, a step": close(attacked("bullseye", TARGET, through=True)),
    "witches-brew, a step": attacked("witches-brew", TARGET, **MATCHING),
    "label-consistent, a step": attacked("label-consistent", BACKDOOR),
    "hidden-trigger, a step": attacked("hidden-trigger", BACKDOOR),
    "sleeper-agent, a step": attacked("sleeper-agent", BACKDOOR, **MATCHING),
    "defence none, a step": defended("none"),
    "defence sanitize, a step": defended("sanitize"),
    "defence noise-only, a step": defended("noise-only"),
    "defence deep-knn, a step": defended("deep-knn"),
    "defence spectral, a step": defended("spectral"),
    "defence activation-clustering, a step": defended("activation-clustering"),
    "defence gradient-noise, a step": defended("gradient-noise"),
    "defence adversarial-training, a step": defended("adversarial-training", steps=2),
    "defence adversarial-training of a head, a step": defended("adversarial-training", "transfer", steps=2),
    "defence adversarial-poisoning, a step": defended("adversarial-poisoning", steps=2),
    "defence friends, a step": defended("friends", begin=0, steps=2),
    "defence dpa, a step": defended("dpa", partitions=2),
    "defence roe, a step": defended("roe", partitions=2),
    "fine-tuned victim, a step": asked,
    "votes of features, a vote": voted,
}


def measured(run: Run) -> dict[str, Any]:
    """Whether the path's results are the CPU's, and what a unit of it costs, by kind and by place."""
    try:
        expected = run(CPU, 3)
        _, before, places = pretend.counted(lambda: run(pretend.device(), 2))
        found, after, more = pretend.counted(lambda: run(pretend.device(), 3))
    except Exception as error:  # reported, whatever it is
        where = [
            f"{f.filename}:{f.lineno}" for f in traceback.extract_tb(error.__traceback__) if "cleanlabel" in f.filename
        ]
        return {"error": f"{type(error).__name__}: {str(error)[:300]} ({', '.join(where[-2:])})"}
    equal = _close if hasattr(run, "close") else _equal
    same = len(expected) == len(found) and all(map(equal, expected, found))
    return {"same": same, "unit": _more(before, after), "where": _more(places, more)}


def _more(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    return {kind: n - before.get(kind, 0) for kind, n in sorted(after.items()) if n > before.get(kind, 0)}


def _equal(one: NDArray[Any], other: NDArray[Any]) -> bool:
    return one.dtype == other.dtype and np.array_equal(one, other, equal_nan=one.dtype.kind == "f")


def _close(one: NDArray[Any], other: NDArray[Any]) -> bool:
    return one.dtype == other.dtype and np.allclose(one, other, rtol=1e-3, atol=1e-3)


if __name__ == "__main__":
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    pretend.install()
    # the CPU shall compute in float32, as the pretended device does
    torch.cpu._is_avx512_bf16_supported = torch.cpu._is_amx_tile_supported = lambda: False
    for name in sys.argv[1:] or PATHS:
        if name == "noise, a batch":
            pretend.counted(lambda: noise(pretend.device(), 1))  # the tables, which a process looks up once
        sys.stdout.write(json.dumps({"path": name, **measured(PATHS[name])}) + "\n")
