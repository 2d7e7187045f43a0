"""Certified transfer on CIFAR-10: a frozen extractor trained elsewhere, and a linear head on every sanitized copy.

    python -m benchmarks.transfer --root DIR --denoiser DIR --extractor FILE [--sigma .25 .5 1] [--quick]

Raw and test images come from the two halves of the *test* split, which neither extractor nor denoiser has seen; trusted
images from the training split, which both have. `frozen` takes the copy's features by the extractor as it is;
`distilled` by a twin that learned, on sanitized copies of trusted images and without labels, to answer as the extractor
does on the clean ones. Clean test images always go through the extractor itself. Every draw is run through all
extractors and heads at once, denoised and with noise only. A run that was interrupted goes on from --scratch. Heads, l2
and the twins' training were chosen on images 6,000 to 9,999 of the test split, which are in neither set.

What this flatters: the extractor was trained on the same ten classes. Its own head needs no raw image at all, and its
accuracy is printed beside the others.
"""

import copy
import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from benchmarks.record import flags, record, results
from cleanlabel.models.certificate import certified_accuracy, certify
from cleanlabel.models.distil import distilled
from cleanlabel.models.extractors import Extractor, accelerated, features, load_extractor, require_fits
from cleanlabel.models.heads import HeadKind, fit_head
from cleanlabel.models.votes import count_votes
from cleanlabel.sanitize import errors
from cleanlabel.sanitize.denoiser import Denoiser, load_denoiser
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.fast import FastDenoiser, accelerate
from cleanlabel.sanitize.files import replacing, write_json
from cleanlabel.sanitize.imageset import ImageSet, read_all
from cleanlabel.sanitize.noise import draw_entropy
from cleanlabel.sanitize.sanitizer import sanitize_batch
from cleanlabel.sanitize.sources import open_published

BATCH = 64
ALPHA = 0.001
RADII = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0, 1.25)
HEADS: dict[str, tuple[HeadKind, float, bool]] = {  # name -> kind, l2, whether drawn towards the extractor's own head
    "mean": ("mean", 1.0, False),
    "direction": ("direction", 1.0, False),
    "lda": ("lda", 1.0, False),
    "ridge": ("ridge", 0.3, False),
    "ridge, prior": ("ridge", 0.3, True),
}
FEW = 0.4
"""Share of the raw images that the first step makes do with."""
STEPS = (
    ("frozen", "ridge", "few"),
    ("frozen", "ridge", "all"),
    ("frozen", "lda", "all"),
    ("distilled", "lda", "all"),
    ("distilled", "ridge, prior", "all"),
)
VARIANTS = (
    ("frozen", "ridge", "few"),
    ("distilled", "lda", "few"),
    *((extractor, head, "all") for extractor in ("frozen", "distilled") for head in HEADS),
)
WAYS = ("denoised", "noise only")
TIMED = ("sanitize", "noise", "features", "heads")


@dataclass(frozen=True)
class Size:
    """How much is computed."""

    m: int
    raw: int
    test: int
    trusted: int
    epochs: int


FULL = Size(m=100, raw=5000, test=1000, trusted=4000, epochs=2)
QUICK = Size(m=2, raw=200, test=100, trusted=200, epochs=1)


@dataclass(frozen=True)
class Sanitizer:
    """Sanitizes at one sigma, with the denoiser or by noise only."""

    sigma: float
    denoiser: Denoiser
    fast: FastDenoiser

    def __call__(self, images: ImageSet, way: str, entropy: bytes, draw: int) -> NDArray[Any]:
        noise_only = way == "noise only"
        return sanitize_batch(
            images.images,
            images.ids,
            self.sigma,
            None if noise_only else self.denoiser,
            entropy,
            draw,
            denoise=None if noise_only else self.fast,
            batch=BATCH,
        )


def twins(
    extractor: Extractor, trusted: ImageSet, sanitizer: Sanitizer, epochs: int, device: str, scratch: Path
) -> dict[str, Extractor]:
    """The distilled twin for each way, made once and kept in the scratch directory."""
    made = {}
    for way in WAYS:
        path = scratch / f"distilled-{sanitizer.sigma:g}-{way.replace(' ', '-')}.safetensors"
        if path.is_file():
            network = copy.deepcopy(extractor.network)
            network.load_state_dict(safetensors.torch.load_file(path))
        else:
            # public noise: the trusted images' streams are no raw image's, and no secret of the certificate
            copied = sanitizer(trusted, way, draw_entropy("fixed:0").value, 0)
            wanted = features(extractor, trusted.images, device)
            network = distilled(extractor, copied, wanted, epochs, device, f"{way}, σ={sanitizer.sigma:g}")
            with replacing(path) as part:
                safetensors.torch.save_file({k: v.contiguous() for k, v in network.state_dict().items()}, part)
        made[way] = replace(extractor, network=network.to(device))
    return made


def vote(
    extractor: Extractor,
    bodies: dict[str, dict[str, Extractor]],
    raw: ImageSet,
    clean: Tensor,
    sanitizer: Sanitizer,
    entropy: bytes,
    draw: int,
    device: str,
) -> tuple[NDArray[np.int8], dict[str, float]]:
    """One draw: votes (ways, variants, n_test), and the seconds of its steps.

    bodies[way] holds the networks of each extractor for sanitized images; clean: the test images' features.
    """
    seconds = dict.fromkeys(TIMED, 0.0)
    labels, few, rows = torch.from_numpy(raw.labels), int(FEW * len(raw)), []

    def timed(step: str, started: float) -> None:
        seconds[step] += time.perf_counter() - started

    for way in WAYS:
        started = time.perf_counter()
        copied = sanitizer(raw, way, entropy, draw)
        timed("sanitize" if way == "denoised" else "noise", started)
        started = time.perf_counter()
        found = {name: features(body, copied, device, BATCH) for name, body in bodies[way].items()}
        timed("features", started)
        started = time.perf_counter()
        for name, head, share in VARIANTS:
            kind, l2, drawn = HEADS[head]
            n = few if share == "few" else len(raw)
            fitted = fit_head(
                found[name][:n], labels[:n], len(raw.classes), kind, l2, extractor.head.cpu() if drawn else None
            )
            rows.append(fitted(clean).argmax(dim=1).numpy().astype(np.int8))
        timed("heads", started)
    return np.stack(rows).reshape(len(WAYS), len(VARIANTS), -1), seconds


def figures_of(votes: NDArray[np.int8], m: int, sigma: float, truth: NDArray[np.int64], classes: int) -> dict[str, Any]:
    """What the votes (m, n_test) of one variant come to."""
    counts = count_votes(dict(enumerate(votes.astype(np.int64))), m, len(truth), classes)
    label, radius = certify(counts, m, sigma, ALPHA)
    return {
        "one_model": round(float((votes == truth).mean()), 4),
        "vote": round(float((counts.argmax(axis=1) == truth).mean()), 4),
        "certified": [round(float(a), 4) for a in certified_accuracy(label, radius, truth, RADII)],
        "curve": (label, radius),
    }


def table(sigma: float, rows: dict[str, Any]) -> str:
    """Markdown: each step's votes and certified accuracy, denoised / noise only."""
    radii = [
        r
        for r in RADII
        if max(rows[f"{w} | {' | '.join(s)}"]["certified"][RADII.index(r)] for w in WAYS for s in STEPS)
    ]
    lines = [
        f"\nσ = {sigma:g}: denoised / noise only\n",
        "| extractor | head | images | one model | vote | gain | " + " | ".join(f"R > {r:g}" for r in radii) + " |",
        "|" + "---|" * (6 + len(radii)),
    ]
    before = None
    for step in STEPS:
        pair = [rows[f"{way} | {' | '.join(step)}"] for way in WAYS]
        gain = [f"{p['vote'] - b['vote']:+.3f}" for p, b in zip(pair, before, strict=True)] if before else ["-"]
        cells = [" / ".join(f"{p[key]:.3f}" for p in pair) for key in ("one_model", "vote")]
        cells += [" / ".join(gain)]
        cells += [" / ".join(f"{p['certified'][RADII.index(r)]:.3f}" for p in pair) for r in radii]
        lines.append(f"| {' | '.join(step)} | " + " | ".join(cells) + " |")
        before = pair
    return "\n".join(lines)


def draw_curves(rows: dict[float, dict[str, Any]], truth: NDArray[np.int64], path: Path) -> None:
    """Certified accuracy against R: denoised solid, noise only dashed; a panel an extractor."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(10, 4), sharey=True, layout="constrained")
    radii = np.linspace(0, 1.6, 321)
    for panel, name in zip(panels, ("frozen", "distilled"), strict=True):
        for n, (sigma, of) in enumerate(sorted(rows.items())):
            for way, style in zip(WAYS, ("-", "--"), strict=True):
                label, radius = of[f"{way} | {name} | lda | all"]["curve"]
                panel.plot(
                    radii,
                    certified_accuracy(label, radius, truth, radii),
                    style,
                    color=f"C{n}",
                    label=f"σ={sigma:g}, {way}",
                )
        panel.set(xlabel="R, joint ℓ2 over the raw set", title=f"{name} extractor", ylim=(0, 1), xlim=(0, radii[-1]))
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("certified accuracy")
    panels[1].legend(fontsize=8)
    figure.savefig(path, dpi=120)


def resumed(scratch: Path, settings: dict[str, Any]) -> bytes:
    """The run's entropy: new, or that of the interrupted run with the same settings. InputError for other settings."""
    path = scratch / "run.json"
    if path.is_file():
        found = json.loads(path.read_text())
        if found["settings"] != settings:
            raise InputError(f"{scratch} holds a run with other settings; choose another --scratch or remove it")
        return bytes.fromhex(found["entropy"])
    entropy = draw_entropy("os")  # after the raw set's digest is fixed: it stands in the settings
    write_json(path, {"settings": settings, "entropy": entropy.hex})
    return entropy.value


def main() -> None:
    parser = flags("transfer", __doc__, f"{QUICK.m} draws of {QUICK.raw} images at the first sigma")
    parser.add_argument("--root", type=Path, required=True, help="where torchvision put CIFAR-10")
    parser.add_argument("--denoiser", type=Path, required=True, help="a diffusers directory")
    parser.add_argument("--extractor", type=Path, required=True, help="a .safetensors file")
    parser.add_argument("--sigma", type=float, nargs="+", default=[0.25, 0.5, 1.0])
    parser.add_argument("--m", type=int, help="draws at each sigma (default 100)")
    parser.add_argument("--images", type=int, help="raw images, up to 5000 (default 5000)")
    parser.add_argument("--scratch", type=Path, default=Path("data/transfer"), help="votes and distilled weights")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    size = QUICK if args.quick else FULL
    size = replace(size, m=args.m or size.m, raw=args.images or size.raw)
    sigmas = args.sigma[:1] if args.quick else args.sigma
    scratch = args.scratch / ("quick" if args.quick else "full")

    held_out = read_all(open_published("cifar10", args.root, "test"), "cifar10")
    half = len(held_out) // 2
    raw = held_out.take(np.arange(min(size.raw, half)))
    test = held_out.take(np.arange(half, half + size.test))
    trusted = read_all(open_published("cifar10", args.root, "train"), "cifar10").take(np.arange(size.trusted))
    extractor, denoiser = load_extractor(args.extractor), load_denoiser(args.denoiser, args.device)
    require_fits(extractor, raw.image_shape)
    extractor.network.to(args.device)
    settings = {
        "m": size.m, "raw_images": len(raw), "test_images": len(test), "trusted_images": len(trusted),
        "epochs": size.epochs, "alpha": ALPHA, "raw_digest": raw.digest, "test_digest": test.digest,
        "denoiser_digest": denoiser.digest, "extractor_digest": extractor.digest,
        "heads": {name: list(head) for name, head in HEADS.items()}, "variants": [list(v) for v in VARIANTS],
    }  # fmt: skip
    entropy = resumed(scratch, settings)
    clean = features(extractor, test.images, args.device)
    own = float((extractor.head.cpu()(clean).argmax(dim=1).numpy() == test.labels).mean())

    rows: dict[float, dict[str, Any]] = {}
    seconds: dict[str, Any] = {}
    with tqdm(total=len(sigmas) * size.m, desc="draws", unit="draw") as bar:
        for sigma in sigmas:
            sanitizer = Sanitizer(sigma, denoiser, accelerate(denoiser, sigma, BATCH, size.m * len(raw)))
            made = twins(extractor, trusted, sanitizer, size.epochs, args.device, scratch)
            bodies = {way: {"frozen": accelerated(extractor), "distilled": accelerated(made[way])} for way in WAYS}
            votes, spent = [], []
            for draw in range(size.m):
                path = scratch / f"votes-{sigma:g}" / f"{draw:05d}.npz"
                if not path.is_file():
                    cast, took = vote(extractor, bodies, raw, clean, sanitizer, entropy, draw, args.device)
                    with replacing(path) as part, part.open("wb") as stream:
                        np.savez(stream, votes=cast, seconds=np.array([took[step] for step in TIMED]))
                with np.load(path, allow_pickle=False) as stored:
                    votes.append(stored["votes"])
                    spent.append(stored["seconds"])
                bar.update()
            every = np.stack(votes)
            rows[sigma] = {
                f"{way} | {' | '.join(variant)}": figures_of(
                    every[:, w, v], size.m, sigma, test.labels, len(raw.classes)
                )
                for w, way in enumerate(WAYS)
                for v, variant in enumerate(VARIANTS)
            }
            took = zip(TIMED, np.mean(spent, axis=0).tolist(), strict=True)
            seconds[f"{sigma:g}"] = {step: round(s, 2) for step, s in took} | {"network": sanitizer.fast.mode}
            print(table(sigma, rows[sigma]), flush=True)
            print(f"\nseconds a draw: {json.dumps(seconds[f'{sigma:g}'])}", flush=True)
    print(f"\nthe extractor's own head, which asks no raw image: {own:.3f}")
    draw_curves(rows, test.labels, results(args) / "transfer.png")
    stripped = {
        f"{sigma:g}": {key: {k: v for k, v in row.items() if k != "curve"} for key, row in of.items()}
        for sigma, of in rows.items()
    }
    figures = {**settings, "own_head_accuracy": round(own, 4), "radii": RADII, "seconds_a_draw": seconds}
    record("transfer", figures | {"rows": stripped}, results(args))


if __name__ == "__main__":
    errors.run(main)
