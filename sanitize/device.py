"""Which device runs networks, and how data reach an accelerator without holding up the host.

Only this file names a kind of accelerator. All other code asks `is_accelerator`, so that the tests' device, which is
none, takes the same branches.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

Device = torch.device | str


def default_device(index: int | None = None) -> torch.device:
    """The device that runs networks on this machine: the GPU with this number (modulo their number), or the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda") if index is None else torch.device("cuda", index % torch.cuda.device_count())


def is_accelerator(device: Device) -> bool:
    """Whether the device works beside the host: then copies and waits cost time, and numbers are drawn on the CPU."""
    return torch.device(device).type != "cpu"


def memory_of(device: Device) -> int | None:
    """All bytes of an accelerator's memory, used or free; None for the CPU, or if it is not known."""
    return torch.cuda.get_device_properties(device).total_memory if torch.device(device).type == "cuda" else None


def has_fast_bfloat16(device: Device) -> bool:
    """Whether the device multiplies bfloat16 in hardware; emulated, it would be slower than float32."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if is_accelerator(device):
        return False
    if torch.backends.cpu.get_cpu_capability() == "AVX2":  # ATEN_CPU_CAPABILITY=avx2 holds a newer processor to it
        return False
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def trains_in_bfloat16(device: Device) -> bool:
    """Whether convolutional networks train there in bfloat16 and channels-last. On a CPU they train in float32."""
    return is_accelerator(device) and has_fast_bfloat16(device)


def sent(tensor: Tensor, device: Device) -> Tensor:
    """The tensor on `device`. To an accelerator it goes through pinned memory, and the host does not wait."""
    if is_accelerator(device) and not is_accelerator(tensor.device):
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def received(shape: Sequence[int], dtype: torch.dtype, device: Device) -> Tensor:
    """Memory of the host, uninitialised, that results of `device` are copied to (`copy_(.., non_blocking=True)`).

    It is pinned for an accelerator. Such copies are complete after the next copy that waits, on the same stream, or
    after a call of `waiting_for`'s answer.
    """
    return torch.empty(shape, dtype=dtype, pin_memory=is_accelerator(device))


def waiting_for(device: Device) -> Callable[[], None]:
    """A function that waits until what this thread has queued so far is done, and for nothing that it queues later."""
    if torch.device(device).type != "cuda":
        return lambda: None
    event = torch.cuda.Event()  # type: ignore[no-untyped-call]
    event.record(torch.cuda.current_stream(torch.device(device)))
    return event.synchronize


def own_stream(device: Device) -> AbstractContextManager[Any]:
    """Within it, this thread's work is queued beside other work of the device; see `settle`."""
    return torch.cuda.stream(_stream(torch.device(device))) if torch.device(device).type == "cuda" else nullcontext()


def settle(device: Device) -> None:
    """Wait until all work of the device is done, so that any stream can use its results."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


@lru_cache(maxsize=8)
def _stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


@lru_cache(maxsize=1)
def compute_repeatably() -> None:
    """Have cuDNN choose the same kernels every time, and compute float32 in float32: TF32 keeps 10 bits of 23.

    For the whole process and for good: the settings belong to no thread, so a block that set and restored them would
    change them under the other threads.
    """
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
