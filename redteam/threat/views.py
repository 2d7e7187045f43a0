"""How images look to an attacker with a view of his own: out of the sanitizer, or moved and mirrored."""

from dataclasses import dataclass

import torch
from torch import Tensor

from cleanlabel.models.augmentation import mirrored, shifted
from cleanlabel.sanitize.denoiser import Denoiser, clean_from, scaled
from cleanlabel.sanitize.device import has_fast_bfloat16, sent
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.timestep import require_reachable


@dataclass(frozen=True, eq=False)
class ThroughSanitizer:
    """Noises and denoises as the victim will: `chances` independent noises per image, with gradients.

    The attacker lacks only the victim's noise and takes the expectation over noise of their own instead (expectation
    over transformation, Athalye et al. 2018). Rounding to whole pixel values is left out: it has no gradient.
    """

    denoiser: Denoiser
    sigma: float
    chances: int = 1

    def __post_init__(self) -> None:
        require_reachable(self.sigma, self.denoiser.facts.largest_sigma)
        if self.chances < 1:
            raise InputError(f"chances={self.chances}: the attacker averages over at least one noise; give 1 or more")

    def __call__(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        """pixels (n, c, h, w) in [0, 1] -> (chances, n, c, h, w) in [0, 1], with gradients to the pixels."""
        denoiser, device = self.denoiser, pixels.device
        shape = (self.chances, *pixels.shape)
        noise = sent(torch.randn(shape, generator=generator, device=generator.device), device)
        noised = (pixels + self.sigma * noise).flatten(0, 1)
        t = denoiser.timestep(self.sigma)
        alpha_bar = denoiser.alphas_cumprod[t]
        x_t = scaled(noised, alpha_bar).contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16, enabled=has_fast_bfloat16(device)):
            output = denoiser.unet(x_t, denoiser.network_time(t)).sample
        return clean_from(output.float(), x_t, alpha_bar, denoiser.prediction).unflatten(0, shape[:2])


@dataclass(frozen=True)
class MovedAtRandom:
    """Each image moved by its own offset of up to `most` pixels in each direction, and mirrored half of the time.

    It is the victim's augmentation. On a frozen extractor, which has none, poisons that are crafted so owe less to one
    network, and carry over better to another one (input diversity, Xie et al. 2019).
    """

    most: int = 2
    flip: bool = True

    def __call__(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        """pixels (n, c, h, w) in [0, 1] -> (1, n, c, h, w), with gradients to the pixels; new pixels are black."""
        # `shifted` moves in -1, which is black in the units of training
        seen = mirrored(shifted(2 * pixels - 1, self.most, generator), self.flip, generator)
        return ((seen + 1) / 2)[None]
