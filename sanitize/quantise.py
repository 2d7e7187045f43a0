"""Quantise a denoiser's network to 8-bit integers, with scales set on trusted images (extra `cpu`: OpenVINO, NNCF).

The noise is added before the network, as ever, in whole pixel values. The scales are constants, like the weights: they
must not depend on the raw set, so they are set on trusted images under public noise, and a record of those is kept
beside the network, which `flows` compares with the raw set.
"""

import hashlib
import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cleanlabel.sanitize.denoiser import Denoiser, scaled
from cleanlabel.sanitize.denoiser_files import INT8, INT8_FACTS, INT8_IMAGES, INT8_NETWORK
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.fast import known_time
from cleanlabel.sanitize.files import write_json
from cleanlabel.sanitize.imageset import ImageSet
from cleanlabel.sanitize.int8 import EXTRA, THREADS, installed, report_nothing
from cleanlabel.sanitize.overlap import record_of, to_bytes
from cleanlabel.sanitize.sanitizer import sanitize

IMAGES, LEAST_IMAGES = 256, 16
"""How many trusted images the scales are set on, and the fewest."""
ENTROPY = hashlib.sha256(b"cleanlabel/int8/1").digest()
"""The entropy of their noise. It is public: no certificate needs it to be secret."""


def quantise(denoiser: Denoiser, sigma: float, trusted: ImageSet, directory: Path) -> None:
    """Write the int8 network of `denoiser` for this sigma into `directory`, beside the denoiser's own files.

    trusted: images that do not depend on the raw set, of the denoiser's size; at most IMAGES of them are used. The same
    images and denoiser give the same files on one machine. InputError for too few images, or without OpenVINO and NNCF.
    """
    if len(trusted) < LEAST_IMAGES:
        raise InputError(
            f"param denoiser.int8={sigma:g} needs at least {LEAST_IMAGES} trusted images to set its scales on, and "
            f"there are {len(trusted)}; add a trusted set, or set it to null (raw images would void the certificate)"
        )
    chosen = np.random.default_rng(0).permutation(len(trusted))[:IMAGES]
    seen = trusted.take(np.sort(chosen))
    inputs = inputs_of(denoiser, sigma, seen)
    whole = len(inputs) - len(inputs) % LEAST_IMAGES
    parts = list(inputs[:whole].numpy().reshape(-1, LEAST_IMAGES, *inputs.shape[1:]))
    network = known_time(denoiser.unet, denoiser.network_time(denoiser.timestep(sigma)), torch.float32)
    openvino, nncf = programs(sigma)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the tracer's warnings about diffusers' own code
        model = openvino.convert_model(network, example_input=inputs[:2], input=[-1, *inputs.shape[1:]])
        model.reshape(parts[0].shape)
        quantised = nncf.quantize(
            model,
            nncf.Dataset(parts),
            subset_size=len(parts),
            target_device=nncf.TargetDevice.CPU,
            # 7 bits for weights: without VNNI instructions a sum of products of 8 bits can overflow
            advanced_parameters=nncf.AdvancedQuantizationParameters(overflow_fix=nncf.OverflowFix.ENABLE),
        )
    quantised.set_friendly_name("denoiser")
    for i, operation in enumerate(quantised.get_ordered_ops()):  # the programs' own names count up in a process
        operation.set_friendly_name(f"{operation.get_type_name()}_{i}")
    folder = directory / INT8
    folder.mkdir()
    openvino.save_model(quantised, folder / INT8_NETWORK, compress_to_fp16=False)
    write_facts(folder, sigma, trusted.digest, seen)


def write_facts(folder: Path, sigma: float, trusted_digest: str, seen: ImageSet) -> None:
    """Write what is known of an int8 network beside it. seen: the images of the trusted set that set its scales."""
    (folder / INT8_IMAGES).write_bytes(to_bytes(record_of(seen.images, seen.ids)))
    facts = {
        "sigma": float(sigma),
        "scales_set_on": trusted_digest,
        "images": len(seen),
        "threads": THREADS,
        "versions": {name: installed(name) for name in ("openvino", "nncf")},
    }
    write_json(folder / INT8_FACTS, facts)


def inputs_of(denoiser: Denoiser, sigma: float, images: ImageSet) -> Tensor:
    """What the network gets for these images, float32 (k, c, s, s): the sanitizer's own steps up to it."""
    given: list[Tensor] = []

    def note(noised: Tensor) -> Tensor:
        given.append(scaled(noised, denoiser.alphas_cumprod[denoiser.timestep(sigma)]))
        return noised

    sanitize(images, sigma, denoiser, ENTROPY, role="public-noise", denoise=note)
    return torch.cat(given).cpu().contiguous()


def programs(sigma: float) -> tuple[Any, Any]:
    """The modules openvino and nncf. InputError if they are not installed."""
    report_nothing()
    try:
        import nncf
        import openvino
    except ImportError as error:
        raise InputError(
            f"param denoiser.int8={sigma:g} needs OpenVINO and NNCF ({error.name} is missing): {EXTRA}, or set it to "
            "null"
        ) from error
    nncf.set_log_level(logging.ERROR)
    return openvino, nncf
