"""Which commands measure our column of a table, at a named scale."""

import shlex
from dataclasses import dataclass

from cleanlabel.sanitize.errors import InputError

PLACES = {
    "ROOT": "where torchvision put CIFAR-10 (and Fashion-MNIST)",
    "SETUPS": "the public benchmark's transfer setups, as JSON",
    "DENOISER": "a diffusers directory or hub id for CIFAR-10",
    "EXTRACTOR": "weights of the victim's extractor, a .safetensors file",
    "KNOWN": "weights of another network, which the black-box attacker crafts on",
    "FASHION_DENOISER": "a diffusers directory for Fashion-MNIST",
    "IMAGENET_WEIGHTS": "a ResNet-18 of ImageNet-21k, brought into this project's weight format",
    "TINY_DENOISER": "a diffusers directory or hub id for Tiny ImageNet",
    "TINY_EXTRACTOR": "a network trained on Tiny ImageNet, in this project's weight format",
}
"""What a command needs of the machine it runs on; each is a flag of `fill --run`."""

CPU_SETS = "--root ROOT --setups SETUPS --denoiser DENOISER --extractor EXTRACTOR"
DRILLS = f"python -m benchmarks.redteam {CPU_SETS} --deeper KNOWN --fashion-denoiser FASHION_DENOISER"
COMPARE = f"python -m benchmarks.compare {CPU_SETS}"
FROZEN_SETS = f"python -m benchmarks.frozen {CPU_SETS} --deeper KNOWN"
CONV = "python -m benchmarks.conv --root ROOT --denoiser DENOISER"

OUT = "benchmarks/results/paper/gpu-full"
WHOLE = "--data cifar10 --root ROOT --images 50000 --poisons 500 --targets 100 --denoiser DENOISER"
SIGMAS = "--sigma 0 0.1 0.25 0.5 1"
RESNET = (
    "--scenario scratch --recipe architecture=resnet18 --recipe width=64 --recipe epochs=40 --recipe batch=128 "
    "--recipe learning_rate=0.001 --recipe label_smoothing=0 --recipe shift=4 --recipe flip=true"
)
VGG = RESNET.replace("resnet18", "vgg11")
PUBLISHED = "--data cifar10 --root ROOT --setups SETUPS --images 2500 --poisons 25 --targets 50 --denoiser DENOISER"
TINY = "--data pipeline --poisons 250 --targets 100 --denoiser TINY_DENOISER --extractor TINY_EXTRACTOR"
RIVALS = "--sigma 0.1 --defences none sanitize deep-knn --with deep-knn.k=500"
TRAINING = "--sigma 0.1 --defences none sanitize dp-sgd adversarial-training friends"


@dataclass(frozen=True)
class Measuring:
    """The commands of one table at one scale, in order; none where the scale has no way, and then `why`."""

    commands: tuple[str, ...]
    why: str = ""


def _full(number: int, attacks: str, rest: str, folder: str = "") -> tuple[str, ...]:
    where = f"{OUT}/table{number}{folder}"
    return tuple(f"python -m redteam --attack {attack} {rest} --output {where}" for attack in attacks.split())


TRANSFER = "frogs convex bullseye"
BACKDOORS = "label-consistent hidden-trigger"
SCRATCH = "witches-brew sleeper-agent"
FROZEN = f"{WHOLE} {SIGMAS} --scenario transfer --extractor EXTRACTOR"
GPU_FULL = {
    "1": (
        *_full(1, f"{TRANSFER} {BACKDOORS}", f"{FROZEN} --epsilon 16"),
        *_full(1, TRANSFER, f"{FROZEN} --epsilon-l2 3.5"),
        *_full(1, f"{TRANSFER} {BACKDOORS}", f"{FROZEN} --epsilon 16 --known KNOWN"),
        *_full(1, TRANSFER, f"{FROZEN} --epsilon-l2 3.5 --known KNOWN"),
    ),
    "2": (
        *_full(2, SCRATCH, f"{WHOLE} {SIGMAS} {RESNET} --epsilon 16 --networks 4"),
        *_full(2, SCRATCH, f"{WHOLE} {SIGMAS} {RESNET} --epsilon-l2 3.5 --networks 4"),
        *_full(2, SCRATCH, f"{WHOLE} {SIGMAS} {VGG} --epsilon 16 --networks 4 --known resnet18"),
        *_full(2, SCRATCH, f"{WHOLE} {SIGMAS} {VGG} --epsilon-l2 3.5 --networks 4 --known resnet18"),
    ),
    "3": (
        *_full(3, "bullseye", f"{FROZEN} --epsilon 16"),
        *_full(3, SCRATCH, f"{WHOLE} {SIGMAS} {RESNET} --epsilon 16 --networks 4"),
        *_full(
            3,
            SCRATCH,
            f"{WHOLE} {SIGMAS} {RESNET} --epsilon 16 --networks 4 --recipe warm_epochs=10 --recipe warm_on=copy",
            "/in-domain",
        ),
        *_full(
            3,
            f"bullseye {SCRATCH}",
            f"{WHOLE} {SIGMAS} --scenario fine-tune --extractor IMAGENET_WEIGHTS --epsilon 16",
            "/out-of-domain",
        ),
    ),
    "4": (
        f"python -m redteam.compare --attack bullseye {WHOLE} --extractor EXTRACTOR {RIVALS} --output {OUT}/table4",
        f"python -m redteam.compare --attack witches-brew {WHOLE} {RESNET} --networks 4 {RIVALS} --output {OUT}/table4",
    ),
    "5": (
        f"python -m redteam.compare --attack bullseye {WHOLE} --extractor EXTRACTOR {TRAINING} --output {OUT}/table5",
        f"python -m redteam.compare --attack {SCRATCH} {WHOLE} {RESNET} --networks 4 {TRAINING} roe "
        f"--with roe.partitions=250 --output {OUT}/table5",
    ),
    "6": (
        *_full(
            6,
            TRANSFER,
            f"{PUBLISHED} --sigma 0 0.5 1 1.5 2 --scenario transfer --extractor EXTRACTOR --epsilon 8",
        ),
        *_full(
            6,
            TRANSFER,
            f"{PUBLISHED} --sigma 0 0.5 1 1.5 2 --scenario transfer --extractor EXTRACTOR --epsilon 8 --known KNOWN",
        ),
    ),
    "7": (
        "dvc repro ingest",
        *_full(7, TRANSFER, f"{TINY} {SIGMAS} --scenario transfer --epsilon 16"),
        *_full(7, TRANSFER, f"{TINY} {SIGMAS} --scenario transfer --epsilon 16 --known KNOWN"),
    ),
    "figure1": (
        "python -m benchmarks.cifar_models --root ROOT --denoiser DENOISER --sigma 0.1 0.25 0.5 1.0 --models 10000",
    ),
}
CPU_SMALL = {
    "1": Measuring((DRILLS, FROZEN_SETS)),
    "2": Measuring((DRILLS, COMPARE, CONV)),
    "3": Measuring((DRILLS, COMPARE, FROZEN_SETS, CONV)),
    "4": Measuring((COMPARE, CONV)),
    "5": Measuring((COMPARE, CONV)),
    "6": Measuring((DRILLS, FROZEN_SETS)),
    "7": Measuring((), "Tiny ImageNet is not at hand, nor a network or a denoiser for it."),
    "figure1": Measuring(
        (
            "python -m benchmarks.ensemble",
            "python -m benchmarks.transfer --root ROOT --denoiser DENOISER --extractor EXTRACTOR",
            "python -m benchmarks.fashion --root ROOT",
        )
    ),
}
NAMES = tuple(CPU_SMALL)


def measuring(name: str, scale: str) -> Measuring:
    """The commands of a table (1 to 7) or of figure1 at a scale. InputError for another name."""
    if name not in NAMES:
        raise InputError(f"{name!r} is not one of the paper's tables; choose one of {', '.join(NAMES)}")
    return CPU_SMALL[name] if scale == "cpu-small" else Measuring(GPU_FULL[name])


def arguments(command: str, places: dict[str, str | None]) -> list[str]:
    """The command as arguments, with what this machine has in its places. InputError names a place left open."""
    found = []
    for word in shlex.split(command):
        value = places.get(word, word) if word in PLACES else word
        if value is None or value in PLACES:
            flag = f"--{word.lower().replace('_', '-')}"
            raise InputError(f"this command needs {word}, {PLACES[word]}; give it with {flag}")
        found.append(value)
    return found
