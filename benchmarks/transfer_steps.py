"""Certified transfer, two more steps one by one: the extractor's last block fine-tuned, and a deeper extractor.

    python -m benchmarks.transfer_steps --root DIR --denoiser DIR --extractor FILE --deeper FILE [--quick]

Sets as in benchmarks.transfer. On each draw's copy of the raw images: LDA on the frozen extractor's features; the same
head and the extractor's last block (layer3) trained on together, starting there; LDA on the deeper extractor's. Few
draws, so nothing is certified: what is compared is the mean accuracy of one model on clean test images.
"""

import copy
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from benchmarks.record import flags, record, results
from benchmarks.transfer import BATCH, WAYS, Sanitizer
from cleanlabel.models.distil import fast_arithmetic
from cleanlabel.models.extractors import CifarResNet, accelerated, features, load_extractor, require_fits
from cleanlabel.models.heads import fit_head
from cleanlabel.models.training import as_tensor
from cleanlabel.sanitize import errors
from cleanlabel.sanitize.denoiser import load_denoiser
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.fast import accelerate
from cleanlabel.sanitize.imageset import read_all
from cleanlabel.sanitize.noise import draw_entropy
from cleanlabel.sanitize.sources import open_published

RATES = (1e-4, 1e-3)
EPOCHS = 3
STEPS = ("frozen, LDA", *(f"last block, rate {rate:g}" for rate in RATES), "deeper, LDA")


class Stem(nn.Module):
    """A published ResNet up to its last block: pixels in [-1, 1] -> the maps (n, 32, 16, 16) that block takes."""

    def __init__(self, network: CifarResNet) -> None:
        super().__init__()
        self.network = network

    @torch.no_grad()
    def forward(self, pixels: Tensor) -> Tensor:
        of = self.network
        x = functional.relu(of.bn1(of.conv1(((pixels + 1) / 2 - of.mean) / of.deviation)))
        return of.layer2(of.layer1(x))


def tuned(block: nn.Module, head: nn.Linear, maps: Tensor, labels: Tensor, rate: float, generator: torch.Generator):
    """The block and head, trained on the maps of one copy. BatchNorm keeps the statistics it came with."""
    block, head = copy.deepcopy(block), copy.deepcopy(head)
    parameters = [*block.parameters(), *head.parameters()]
    for parameter in parameters:
        parameter.requires_grad_(requires_grad=True)
    optimiser = torch.optim.AdamW(parameters, lr=rate, weight_decay=1e-4)
    steps = EPOCHS * -(-len(maps) // BATCH)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1 - step / steps)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(maps), generator=generator).split(BATCH):
            batch = maps[rows].flip(3) if torch.rand((), generator=generator) < 0.5 else maps[rows]
            with fast_arithmetic("cpu"):
                answers = head(block(batch).mean(dim=(2, 3)))
            loss = functional.cross_entropy(answers.float(), labels[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    return block.requires_grad_(requires_grad=False), head.requires_grad_(requires_grad=False)


def main() -> None:
    parser = flags("transfer_steps", __doc__, "1 draw of 100 images at the first sigma")
    parser.add_argument("--root", type=Path, required=True, help="where torchvision put CIFAR-10")
    parser.add_argument("--denoiser", type=Path, required=True, help="a diffusers directory")
    parser.add_argument("--extractor", type=Path, required=True, help="a published ResNet for CIFAR (.safetensors)")
    parser.add_argument("--deeper", type=Path, required=True, help="another, deeper")
    parser.add_argument("--sigma", type=float, nargs="+", default=[0.25, 0.5, 1.0])
    args = parser.parse_args()
    draws, images, tests = (1, 100, 100) if args.quick else (5, 5000, 1000)
    sigmas = args.sigma[:1] if args.quick else args.sigma

    held_out = read_all(open_published("cifar10", args.root, "test"), "cifar10")
    half = len(held_out) // 2
    raw, test = held_out.take(np.arange(images)), held_out.take(np.arange(half, half + tests))
    small, deep, denoiser = load_extractor(args.extractor), load_extractor(args.deeper), load_denoiser(args.denoiser)
    for extractor, flag in ((small, "--extractor"), (deep, "--deeper")):
        require_fits(extractor, raw.image_shape)
        if not isinstance(extractor.network, CifarResNet):
            raise InputError(f"{flag} must name a published ResNet for CIFAR")
    labels, truth = torch.from_numpy(raw.labels), torch.from_numpy(test.labels)
    stem, entropy = Stem(small.network), draw_entropy("os").value
    test_maps = torch.cat([stem(part) for part in as_tensor(test.images).split(BATCH)])
    clean, clean_deep = features(small, test.images), features(deep, test.images)
    bodies, classes = [accelerated(small), accelerated(deep)], len(raw.classes)

    def accuracy(head: nn.Linear, found: Tensor) -> float:
        return round(float((head(found).argmax(dim=1) == truth).double().mean()), 4)

    rows: dict[str, dict[str, list[float]]] = {}
    started = time.perf_counter()
    with tqdm(total=len(sigmas) * draws * len(WAYS), desc="copies", unit="copy") as bar:
        for sigma in sigmas:
            sanitizer = Sanitizer(sigma, denoiser, accelerate(denoiser, sigma, BATCH, draws * images))
            for draw in range(draws):
                for way in WAYS:
                    copied = sanitizer(raw, way, entropy, draw)
                    head = fit_head(features(bodies[0], copied), labels, classes, "lda", 1.0, None)
                    deeper = fit_head(features(bodies[1], copied), labels, classes, "lda", 1.0, None)
                    maps = torch.cat([stem(part) for part in as_tensor(copied).split(BATCH)])
                    found = [accuracy(head, clean)]
                    for rate in RATES:
                        generator = torch.Generator().manual_seed(draw)
                        block, own = tuned(small.network.layer3, head, maps, labels, rate, generator)
                        found.append(accuracy(own, block(test_maps).mean(dim=(2, 3))))
                    found.append(accuracy(deeper, clean_deep))
                    for step, value in zip(STEPS, found, strict=True):
                        rows.setdefault(f"{sigma:g} | {way}", {}).setdefault(step, []).append(value)
                    bar.update()
    print("\n| σ | way | " + " | ".join(STEPS) + " |\n" + "|---" * (2 + len(STEPS)) + "|")
    for key, of in rows.items():
        print(f"| {key} | " + " | ".join(f"{np.mean(of[s]):.3f} ± {np.std(of[s]):.3f}" for s in STEPS) + " |")
    record(
        "transfer_steps",
        {
            "draws": draws, "raw_images": images, "test_images": tests, "epochs": EPOCHS,
            "extractor_digest": small.digest, "deeper_digest": deep.digest, "denoiser_digest": denoiser.digest,
            "seconds": round(time.perf_counter() - started), "accuracy": rows,
        },
        results(args),
    )  # fmt: skip


if __name__ == "__main__":
    errors.run(main)
