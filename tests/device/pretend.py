"""A device that is not there: tensors that say they lie on `pretend:0`, and are computed on the CPU.

What an accelerator refuses is refused: operands on two devices, a CPU generator for the device's numbers, a CPU tensor
indexed by the device's. What costs time on one is counted, with its file and line: copies in each direction, and
everything else that makes the host wait. Values are real, so a path's results can be compared with the CPU's bit by
bit, backward passes and optimisers included.

`install()` changes torch for the whole process: use it in a process of its own.
"""

import sys
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch.autograd.grad_mode import inference_mode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

import cleanlabel

NAME = "pretend"
ROOM = f"{Path(cleanlabel.__file__).parent}/"
HELPER = f"{ROOM}sanitize/device.py"
PAGEABLE, PINNED, DOWN, WAIT = "up, pageable", "up, pinned", "down, waits", "waits"
"""What is counted. A copy up from pageable memory and every copy down, except into pinned memory, holds up the host."""
DOWN_PINNED = "down, pinned"
counts: Counter[str] = Counter()
where: Counter[str] = Counter()

aten = torch.ops.aten
WAITS = {
    aten._local_scalar_dense.default,
    aten.nonzero.default,
    aten.masked_select.default,
    aten.equal.default,
    aten._unique2.default,
    aten.unique_dim.default,
    aten.bincount.default,
    aten.repeat_interleave.Tensor,
}
READS = {aten.index.Tensor, aten._unsafe_index.Tensor}
WRITES = {aten.index_put_.default, aten.index_put.default, aten._index_put_impl_.default}
_autocast = torch.library.Library("_", "IMPL", "AutocastPrivateUse1")
_pinned: dict[int, torch.Tensor] = {}  # by address; held, so that no address is used again


class Mismatch(RuntimeError):
    """What an accelerator would refuse."""


class _Backend(_DummyBackendModule):
    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]

    def is_available(self) -> bool:
        return True

    def device_count(self) -> int:
        return 1


class Pretend(torch.Tensor):
    """A tensor of the device; `raw` holds its values."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, raw: torch.Tensor) -> "Pretend":
        like = {"strides": raw.stride(), "storage_offset": raw.storage_offset(), "dtype": raw.dtype}
        made = torch.Tensor._make_wrapper_subclass(cls, raw.size(), layout=raw.layout, device=device(), **like)
        made.raw = raw
        return made

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _dispatch(func, args, kwargs or {})

    def __deepcopy__(self, memo: dict[int, Any]) -> torch.Tensor:
        copied = self.detach().clone().requires_grad_(self.requires_grad)
        return torch.nn.Parameter(copied, self.requires_grad) if getattr(self, "_is_param", False) else copied


class _Dispatched(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return _dispatch(func, args, kwargs or {})


class On(_Dispatched):
    """Within this block the device exists, in this thread and in threads of the pools that it uses."""

    depth = 0

    def __enter__(self) -> Any:
        On.depth += 1
        torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(x, device=..) is made on the CPU and brought over
        torch.__future__.set_overwrite_module_params_on_conversion(True)  # `.data =` cannot change what is wrapped
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        On.depth -= 1
        torch._C._set_only_lift_cpu_tensors(False)
        torch.__future__.set_overwrite_module_params_on_conversion(False)
        super().__exit__(*error)


def install() -> None:
    """Register the device. Inference mode becomes no_grad, as its tensors cannot be wrapped; autocast does nothing."""
    _setup_privateuseone_for_python_backend(NAME, _Backend())
    _autocast.fallback(torch.library.fallthrough_kernel)

    def enter(self: Any) -> None:
        self.plain = torch.no_grad()
        self.plain.__enter__()

    inference_mode.__enter__ = enter
    inference_mode.__exit__ = lambda self, *error: self.plain.__exit__(*error)
    submit = ThreadPoolExecutor.submit

    def submit_here(self: ThreadPoolExecutor, f: Callable[..., Any], *args: Any, **kwargs: Any) -> Future[Any]:
        def run() -> Any:
            with _Dispatched():
                return f(*args, **kwargs)

        return submit(self, run) if On.depth else submit(self, f, *args, **kwargs)

    ThreadPoolExecutor.submit = submit_here


def device() -> torch.device:
    return torch.device(NAME, 0)


def counted(run: Callable[[], Any]) -> tuple[Any, Counter[str], Counter[str]]:
    """What `run` returns on the device, its copies and waits by kind, and by kind, file and line."""
    counts.clear()
    where.clear()
    with On():
        result = run()
    return result, Counter(counts), Counter(where)


def _count(what: str) -> None:
    frame = sys._getframe()
    while frame and (not (name := frame.f_code.co_filename).startswith(ROOM) or name == HELPER):
        frame = frame.f_back
    if frame:  # otherwise it is a test's own
        counts[what] += 1
        where[f"{what}: {frame.f_code.co_filename.removeprefix(ROOM)}:{frame.f_lineno}"] += 1


def _ours(place: Any) -> bool:
    return place is not None and torch.device(place).type == NAME


def _is_pinned(tensor: torch.Tensor) -> bool:
    return tensor.untyped_storage().data_ptr() in _pinned


def _pin(tensor: torch.Tensor) -> torch.Tensor:
    _pinned[tensor.untyped_storage().data_ptr()] = tensor
    return tensor


def _dispatch(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd"):
        with _Dispatched():  # such an operation arrives whole where no gradients are recorded
            found = func.decompose(*args, **kwargs)
        if found is not NotImplemented:
            return found
    flat, spec = tree_flatten((args, kwargs))
    ours = [a for a in flat if isinstance(a, Pretend)]
    theirs = [a for a in flat if isinstance(a, torch.Tensor) and not isinstance(a, Pretend)]
    if func is aten.is_pinned.default:
        return bool(theirs) and _is_pinned(theirs[0])
    if func is aten._pin_memory.default:
        return _pin(theirs[0].clone())
    place = kwargs.get("device")
    lands = _ours(place) if place is not None else bool(ours)
    _check(func, args, kwargs, ours, [a for a in theirs if a.dim()], place, lands)

    given = {id(a.raw): a for a in ours}
    lowered = [a.raw if isinstance(a, Pretend) else torch.device("cpu") if _is_device(a) else a for a in flat]
    low_args, low_kwargs = tree_unflatten(lowered, spec)
    if _ours(place):
        low_kwargs["device"] = torch.device("cpu")
    pins = low_kwargs.pop("pin_memory", False) and not lands
    result = func(*low_args, **low_kwargs)
    if func is aten._to_copy.default and result is low_args[0]:
        result = result.clone()  # a copy to another device never shares memory
    if func is aten.copy_.default:
        lands = isinstance(args[0], Pretend)

    def lifted(value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or isinstance(value, Pretend):
            return value
        if id(value) in given:
            return given[id(value)]
        return Pretend(value) if lands else _pin(value) if pins else value

    return tree_map(lifted, result)


def _is_device(value: Any) -> bool:
    return isinstance(value, torch.device) and value.type == NAME


def _check(func: Any, args: Any, kwargs: Any, ours: list[Any], theirs: list[Any], place: Any, lands: bool) -> None:
    """Count what holds up the host; Mismatch for what the device would refuse. theirs: CPU tensors, but no scalars."""
    if isinstance(kwargs.get("generator"), torch.Generator) and lands:
        raise Mismatch(f"{func}: a CPU generator for numbers of {NAME}")
    if func is aten._to_copy.default:
        if place is not None and _ours(place) != bool(ours):
            _count((PINNED if _is_pinned(args[0]) else PAGEABLE) if _ours(place) else DOWN)
    elif func is aten.copy_.default:
        if ours and theirs:
            down = isinstance(args[1], Pretend)
            asynchronous = _is_pinned(theirs[0]) and (not down or (len(args) > 2 and args[2]))
            _count(DOWN_PINNED if down and asynchronous else DOWN if down else PINNED if asynchronous else PAGEABLE)
    elif func in READS | WRITES and ours:
        indices = [i for i in args[1] if isinstance(i, torch.Tensor)]
        values = args[2:3] if func in WRITES else ()
        if not isinstance(args[0], Pretend):
            raise Mismatch(f"{func}: a CPU tensor indexed by one of {NAME}")
        if any(isinstance(v, torch.Tensor) and not isinstance(v, Pretend) and v.dim() for v in values):
            raise Mismatch(f"{func}: values on the CPU")
        if any(i.dtype in (torch.bool, torch.uint8) for i in indices):
            _count(WAIT)
        counts_up = sum(not isinstance(i, Pretend) for i in indices)
        for _ in range(counts_up):
            _count(PAGEABLE)
    elif ours and theirs:
        raise Mismatch(f"{func}: operands on {NAME} and on the CPU")
    if func in WAITS and ours:
        _count(WAIT)
