"""The fast path of the denoiser: one timestep for the whole run, bfloat16 for the network, fixed shapes, compiled.

`Denoiser.denoise` is the slow twin that the tests compare it with.
"""

import copy
import math
import warnings
from functools import lru_cache
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from cleanlabel.sanitize.denoiser import Denoiser, Prediction, clean_from, scaled
from cleanlabel.sanitize.denoiser_files import first_line
from cleanlabel.sanitize.device import has_fast_bfloat16, is_accelerator, sent
from cleanlabel.sanitize.errors import InputError

Mode = Literal["float32", "bfloat16", "float32, compiled", "bfloat16, compiled", "int8"]
COMPILE_FROM = 5e13
"""Arithmetic (flop) of a whole run above which compiling, half a minute to a minute on a CPU, saves time: 4,000
CIFAR-10 images with the 35.7 M-parameter network, 64,000 with one of 2.5 M, 700,000 8x8 digits. It holds for small
networks, which gain 18 % and more, and for large ones on AMX."""
AVX512_COMPILE_FROM = 2e14
"""The same for a large network (`BFLOAT16_FROM`) on AVX-512 without AMX, where it gains 14 to 19 %: ten minutes' work.
On AVX2 a large network is never compiled: it gained 9 and 11 % (`python -m benchmarks.modes`). Nor is it on other
processors, which were not measured."""
CALLS = 6e7
"""Cost per image of calling a network's layers, counted as arithmetic (flop): on one core, a network of 8 Mflop takes
.14 ms per image uncompiled, .05 ms compiled."""
ACCELERATOR_COMPILE_FROM = 6e15
"""The same for an accelerator. Not measured: compiling is taken to last half a minute there too and to halve a run's
time, so it pays for runs that take a minute uncompiled, at 1e14 flop/s."""
ACCELERATOR_CALLS = 1e9
"""The same for an accelerator. Not measured: some 500 calls of 5 us each are 10 us per image of a batch of 256, in
which it does 1e9 flop at 1e14 flop/s."""
BFLOAT16_FROM = 5e7
"""Arithmetic (flop) per image below which a CPU spends its time on calls, not products. There bfloat16 only adds
conversions, unless compiled: measured .8 of float32's speed at 8 Mflop, 2.7 at 720; compiled 1.6 at 8."""


class FastDenoiser:
    """Denoises batches at one sigma on one device in one `mode`. Made by `accelerate`.

    Every batch is padded to one shape and no operation mixes rows. So an image's result depends neither on the others
    nor on its place: the same batch size, mode and machine give the same bits.
    """

    def __init__(self, denoiser: Denoiser, sigma: float, batch: int, mode: Mode) -> None:
        t = denoiser.timestep(sigma)
        facts = denoiser.facts
        self.batch = batch
        self.device = denoiser.device
        self._alpha_bar = denoiser.alphas_cumprod[t]
        self._prediction: Prediction = denoiser.prediction
        self._dtype = torch.bfloat16 if mode.startswith("bfloat16") else torch.float32
        shape = (batch, facts.channels, facts.sample_size, facts.sample_size)
        self._input = torch.zeros(shape, dtype=self._dtype, device=self.device).contiguous(
            memory_format=torch.channels_last
        )
        self.mode: Mode = mode
        self._network: Any
        if mode == "int8":
            if denoiser.int8 is None or denoiser.int8.sigma != sigma:
                raise InputError(f"the denoiser has no int8 network for sigma={sigma:g}; set denoiser.int8 to that")
            self._network = denoiser.int8.network(self.device, batch)
        else:
            self._network = known_time(denoiser.unet, denoiser.network_time(t), self._dtype)
        if mode.endswith("compiled"):
            self._compile()

    @property
    def words(self) -> str:
        """The mode and, for int8, what else its bits depend on."""
        return self._network.words if self.mode == "int8" else self.mode

    @torch.inference_mode()
    def __call__(self, noised: Tensor) -> Tensor:
        """The clean images for noised float32 (n <= batch, c, h, w) in [0,1] units, unclipped; see `Denoiser.denoise`.

        The images may be on the CPU or on the device; the result is on the device, float32 in [0, 1].
        """
        n = len(noised)
        if n > self.batch:
            raise ValueError(f"{n} images do not fit a batch of {self.batch}")
        x_t = scaled(sent(noised, self.device), self._alpha_bar)
        self._input[:n] = x_t
        self._input[n:] = 0
        output = self._network(self._input)[:n].float()
        return clean_from(output, x_t, self._alpha_bar, self._prediction)

    @torch.inference_mode()
    def _compile(self) -> None:
        """Compile for the one shape. If that fails (for example without a C++ compiler), warn once and continue."""
        plain = self._network
        options: dict[str, Any] = {"freezing": True}  # the weights are constants: laid out for the machine once
        if is_accelerator(self.device):
            # Kernels are not chosen by timing them: two starts could choose differently, and round differently.
            options |= {"triton.cudagraphs": True} | ({"deterministic": True} if _has_deterministic() else {})
        by_instructions = torch.compiler.config.patch(cache_key_tag=instructions())  # type: ignore[attr-defined]
        try:
            with warnings.catch_warnings(), by_instructions:
                warnings.simplefilter("ignore")  # the compiler's warnings about diffusers' own code
                self._network = torch.compile(plain, fullgraph=True, dynamic=False, options=options)
                self._network(self._input)
        except Exception as error:  # the compiler raises many kinds
            self._network = plain
            self.mode = "bfloat16" if self._dtype is torch.bfloat16 else "float32"
            warnings.warn(
                f"the denoiser runs uncompiled, which is slower: {first_line(error)}; "
                "install a C++ compiler (g++) to have it compiled",
                RuntimeWarning,
                stacklevel=2,
            )


def accelerate(
    denoiser: Denoiser, sigma: float, batch: int, images: int | None = None, mode: Mode | None = None
) -> FastDenoiser:
    """A fast `denoiser` for one sigma and batches of up to `batch` images. The same arguments give the same object.

    images: the number that a run denoises in all its shards and restarts, or None for "many". It decides whether
    compiling pays, and so the bits. A denoiser with an int8 network for this sigma runs that. `mode` overrides the
    choice (a restart passes the mode of the first start).
    InputError for a sigma beyond the schedule or an unknown mode.
    """
    denoiser.timestep(sigma)
    if batch < 1:
        raise InputError(f"batch={batch} is not positive; choose at least 1")
    if mode is not None and mode not in get_args(Mode):
        raise InputError(f"mode={mode!r} is unknown; choose one of {', '.join(map(repr, get_args(Mode)))}")
    if mode is None and denoiser.int8 and denoiser.int8.sigma == sigma:
        mode = "int8"
    return _made(denoiser, sigma, batch, mode or choose_mode(denoiser, images))


_made = lru_cache(maxsize=4)(FastDenoiser)  # a process asks again for every set and draw; compiling takes half a minute


def instructions() -> str:
    """The CPU's vector instructions. The compiler's cache is kept apart by them.

    Without that, torch takes code that another machine, or this one held to older instructions, left in a shared
    cache folder; the process then dies of corrupted memory (torch 2.15).
    """
    return f"{torch.backends.cpu.get_cpu_capability()} {torch.cpu.get_capabilities()}"


def choose_mode(denoiser: Denoiser, images: int | None) -> Mode:
    """bfloat16 if the device has instructions for it and the network enough work; compiled if `images` make that pay.

    It depends on the machine's instructions, the network's arithmetic and `images`. Nothing is timed.
    """
    work, beside = flop_per_image(denoiser), is_accelerator(denoiser.device)
    calls = ACCELERATOR_CALLS if beside else CALLS
    compiled = (math.inf if images is None else images * (work + calls)) >= _compile_from(work, beside=beside)
    if has_fast_bfloat16(denoiser.device) and (beside or work >= BFLOAT16_FROM or compiled):
        return "bfloat16, compiled" if compiled else "bfloat16"
    return "float32, compiled" if compiled else "float32"


def _compile_from(work: float, *, beside: bool) -> float:
    """The arithmetic (flop) of a run from which a network of so much `work` an image is compiled, or nan for never."""
    if beside:
        return ACCELERATOR_COMPILE_FROM
    if work < BFLOAT16_FROM or torch.cpu._is_amx_tile_supported():
        return COMPILE_FROM
    return AVX512_COMPILE_FROM if torch.backends.cpu.get_cpu_capability() == "AVX512" else math.nan


@lru_cache(maxsize=4)
@torch.inference_mode()
def flop_per_image(denoiser: Denoiser) -> int:
    """Floating-point operations of the network per image, by torch's own counter."""
    from torch.utils.flop_counter import FlopCounterMode

    side = denoiser.facts.sample_size
    image = torch.zeros(1, denoiser.facts.channels, side, side, device=denoiser.device)
    with FlopCounterMode(display=False) as counter:
        denoiser.unet(image, denoiser.network_time(1))
    return int(counter.get_total_flops())


class FixedTimestepUNet(nn.Module):
    """A UNet2DModel whose only input is the images: its time is a constant."""

    def __init__(self, unet: nn.Module, time: Tensor) -> None:
        super().__init__()
        self.unet = unet
        self.register_buffer("time", time)

    def forward(self, x_t: Tensor) -> Tensor:
        output: Tensor = self.unet(x_t, self.time, return_dict=False)[0]
        return output


class Known(nn.Module):
    """Replaces the time embedding: a constant, or None if no layer uses it any more."""

    def __init__(self, embedding: Tensor | None) -> None:
        super().__init__()
        self.register_buffer("embedding", embedding)

    def forward(self, _: Tensor) -> Any:
        return self.embedding


@torch.no_grad()
def known_time(unet: nn.Module, time: Tensor, dtype: torch.dtype) -> FixedTimestepUNet:
    """A copy of `unet` in `dtype`, channels-last, with everything that depends only on the time computed once.

    In float32 it equals `unet` up to the order of additions. The residual blocks add a projection of the time's
    embedding to every pixel: this goes into the bias of the preceding convolution. If they scale and shift by it, it
    goes into the normalisation. The embedding is computed before the rounding to bfloat16, so it loses no precision.
    """
    from diffusers.models.resnet import ResnetBlock2D, ResnetBlockCondNorm2D  # imported late: it takes seconds

    fixed: Any = copy.deepcopy(unet)
    embedding = fixed.time_embedding(fixed.time_proj(time[None]))
    if any(isinstance(block, ResnetBlockCondNorm2D) for block in fixed.modules()):
        fixed.time_embedding = Known(embedding)
    else:
        for block in fixed.modules():
            if isinstance(block, ResnetBlock2D):
                _fold(block, embedding)
        fixed.time_embedding = Known(None)
    nn.Module.to(fixed, dtype)  # diffusers' own `to` logs a warning
    nn.Module.to(fixed, memory_format=torch.channels_last)
    return FixedTimestepUNet(fixed, time).eval()


def _fold(block: Any, embedding: Tensor) -> None:
    """Fold a residual block's projection of the time into its other weights."""
    projected = block.time_emb_proj(embedding if block.skip_time_act else block.nonlinearity(embedding))[0]
    if block.time_embedding_norm == "scale_shift":
        scale, shift = projected.chunk(2)
        block.norm2.weight.mul_(1 + scale)
        block.norm2.bias.mul_(1 + scale).add_(shift)
        block.time_embedding_norm = "default"
    else:
        block.conv1.bias.add_(projected)
    block.time_emb_proj = None


def _has_deterministic() -> bool:
    import torch._inductor.config as inductor

    return hasattr(inductor, "deterministic")
