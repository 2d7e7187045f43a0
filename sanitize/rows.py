"""How many rows a network takes at once on an accelerator: as many as fit its memory, so that a large one has work.

The number follows from facts of the device and of the network, never from what is free at the moment: the last bits
depend on it, and the same machine must choose it again. No device has been measured with it.
"""

import weakref
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cleanlabel.sanitize.denoiser import Denoiser
from cleanlabel.sanitize.device import memory_of

NETWORK_BATCH = 64
"""Rows per call on a CPU: one shape for the whole run, so that an image's bytes do not depend on others."""
MOST_VALUES = 1 << 23
"""The most pixel values per call on an accelerator: 2,048 images of CIFAR-10, where more rows bring no more speed."""
SHARE = 4
"""One part in so many of a device's memory may hold activations: training, the images and the libraries need the rest.
"""


def rows_that_fit(memory: int, bytes_a_row: int, values_a_row: int) -> int:
    """The rows per call on a device with `memory` bytes, for a network whose activations need `bytes_a_row` a row.

    The largest power of two whose activations fill at most a quarter of the memory and which has at most MOST_VALUES
    pixel values; at least 1.
    """
    fit = min(MOST_VALUES // values_a_row, memory // SHARE // bytes_a_row)
    return 1 << max(0, fit.bit_length() - 1)


def network_rows(denoiser: Denoiser | None) -> int | None:
    """The rows per call that suit the denoiser's device; None on a CPU, or if the size of its memory is not known."""
    memory = memory_of(denoiser.device) if denoiser else None
    if denoiser is None or memory is None:
        return None
    values = denoiser.facts.channels * denoiser.facts.sample_size**2
    return rows_that_fit(memory, activation_bytes(denoiser), values)


@lru_cache(maxsize=4)
def activation_bytes(denoiser: Denoiser) -> int:
    """The most bytes that the network's activations for one image take at the same time, in float32."""
    side = denoiser.facts.sample_size
    return peak_bytes(denoiser.unet, torch.empty(1, denoiser.facts.channels, side, side), torch.empty(()))


@torch.no_grad()
def peak_bytes(network: nn.Module, *inputs: Tensor) -> int:
    """The most bytes of tensors that exist at the same time while the network computes, without weights and inputs.

    Nothing is computed: tensors without data go through it, so that the answer is the same for every device.
    """
    named = [*network.named_parameters(), *network.named_buffers()]
    weights = {name: torch.empty_like(tensor, device="meta") for name, tensor in named}
    given = tuple(torch.empty_like(tensor, device="meta") for tensor in inputs)
    with _Live([*weights.values(), *given]) as live:
        functional_call(network, weights, given)
    peak: int = live.peak
    return peak


class _Live(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of tensors made within it that are still referred to."""

    def __init__(self, outside: list[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        storages = [tensor.untyped_storage() for tensor in outside]
        self._known: dict[int, torch.UntypedStorage | None] = {id(storage): storage for storage in storages}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        return made

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = id(storage), storage.nbytes()
        if key in self._known:
            return
        self._known[key] = None
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self.now -= size
        del self._known[key]
