"""How fast the denoising loop is: four implementations, side by side in one run.

    python -m benchmarks.sanitizer [--quick] [--denoiser DIR ...] [--name NAME]

About twelve minutes on one core of the slowest machine tried; `--name` keeps the records of several machines apart.

- reference: the slow twin, `Denoiser.denoise` (float32, eager, channels-last)
- published: ethz-spylab's diffusion_denoised_smoothing (noise by the timestep; float32, eager, NCHW; one pred_xstart)
- scheduler: diffusers' own add_noise, network and step(...).pred_original_sample
- ours: `sanitize.fast` as `accelerate` chooses it for 50,000 images

Each starts from the same clean images and the same noise, drawn beforehand. Weights are random: speed does not depend
on them.
"""

import copy
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import trange

from benchmarks.common.record import flags, record, results
from cleanlabel.sanitize import errors
from cleanlabel.sanitize.denoiser import Denoiser, clean_from, load_denoiser
from cleanlabel.sanitize.denoiser_files import layout, read_config
from cleanlabel.sanitize.device import has_fast_bfloat16
from cleanlabel.sanitize.fast import FastDenoiser, accelerate, flop_per_image

SIGMA, SET = 0.5, 50_000
WAYS = ("reference", "published", "scheduler", "ours")
CIFAR10 = {  # google/ddpm-cifar10-32
    "sample_size": 32,
    "block_out_channels": (128, 256, 256, 256),
    "layers_per_block": 2,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": None,
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "norm_eps": 1e-6,
}
PLAIN: dict[str, Any] = {"layers_per_block": 1, "norm_num_groups": 8, "add_attention": False}
SMALL = PLAIN | {"sample_size": 32, "block_out_channels": (32, 64, 128)}
DIGITS = PLAIN | {"sample_size": 8, "in_channels": 1, "out_channels": 1, "block_out_channels": (16, 32)}


def random_denoiser(config: dict[str, Any], directory: Path) -> Path:
    """A denoiser of random weights on disk, with DDPM's linear schedule."""
    from diffusers import DDPMScheduler, UNet2DModel

    depth = len(config["block_out_channels"])
    blocks = {"down_block_types": ("DownBlock2D",) * depth, "up_block_types": ("UpBlock2D",) * depth}
    torch.manual_seed(0)
    UNet2DModel(**blocks | config).save_pretrained(directory / "unet", safe_serialization=True)
    DDPMScheduler(1000).save_pretrained(directory / "scheduler")
    return directory


@dataclass
class Contest:
    """One network, the four ways through it, and the seconds each took, round by round."""

    name: str
    denoiser: Denoiser
    ways: dict[str, Callable[[Tensor, Tensor], Tensor]]
    fast: FastDenoiser
    clean: Tensor
    noise: Tensor
    seconds: dict[str, list[float]] = field(default_factory=lambda: {way: [] for way in WAYS})

    def run(self, way: str) -> Tensor:
        """All images, in batches."""
        size = self.fast.batch
        with torch.inference_mode():
            pairs = zip(self.clean.split(size), self.noise.split(size), strict=True)
            done = torch.cat([self.ways[way](clean, noise) for clean, noise in pairs])
            if done.device.type == "cuda":
                torch.cuda.synchronize()
        return done

    def time(self, way: str) -> None:
        """Run one implementation and note its seconds."""
        started = time.perf_counter()
        self.run(way)
        self.seconds[way].append(time.perf_counter() - started)


def contest(name: str, directory: Path, images: int, batch: int, device: str, of: int) -> Contest:
    """Load a denoiser and set the four ways up, ours as for `of` images."""
    from diffusers import DDPMScheduler

    denoiser = load_denoiser(directory, device)
    t = denoiser.timestep(SIGMA)
    scheduler = DDPMScheduler.from_config(read_config(layout(directory).scheduler))
    nchw: Any = copy.deepcopy(denoiser.unet).to(memory_format=torch.contiguous_format)
    fast = accelerate(denoiser, SIGMA, batch, images=of)
    alpha_bar = denoiser.alphas_cumprod[t]

    def published(clean: Tensor, noise: Tensor) -> Tensor:
        x_t = alpha_bar.sqrt() * (2 * clean - 1) + (1 - alpha_bar).sqrt() * noise
        steps = denoiser.network_time(t).expand(len(x_t))
        return clean_from(nchw(x_t, steps).sample, x_t, alpha_bar, denoiser.prediction)

    def by_scheduler(clean: Tensor, noise: Tensor) -> Tensor:
        x_t = scheduler.add_noise(2 * clean - 1, noise, torch.full((len(clean),), t, device=clean.device))
        predicted: Any = scheduler.step(nchw(x_t, denoiser.network_time(t)).sample, t, x_t)
        return (predicted.pred_original_sample + 1) / 2

    ways: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "reference": lambda clean, noise: denoiser.denoise(clean + SIGMA * noise, SIGMA),
        "published": published,
        "scheduler": by_scheduler,
        "ours": lambda clean, noise: fast(clean + SIGMA * noise),
    }
    generator = torch.Generator().manual_seed(0)
    shape = (images, denoiser.facts.channels, denoiser.facts.sample_size, denoiser.facts.sample_size)
    clean, noise = torch.rand(shape, generator=generator), torch.randn(shape, generator=generator)
    return Contest(name, denoiser, ways, fast, clean.to(device), noise.to(device))


def matrix_product(device: str, side: int) -> tuple[float, float]:
    """(flop, seconds) of one matrix product: the rate that the machine offers.

    In bfloat16 where the device multiplies that in hardware, as our way does. Elsewhere in float32: emulated, one
    product of 4096 rows takes minutes.
    """
    a = torch.ones(side, side, dtype=product_dtype(device), device=device)
    torch.mm(a, a)[0, 0].item()
    started = time.perf_counter()
    torch.mm(a, a)[0, 0].item()
    return 2 * side**3, time.perf_counter() - started


def product_dtype(device: str) -> torch.dtype:
    """What the machine's rate is measured in."""
    return torch.bfloat16 if has_fast_bfloat16(torch.device(device)) else torch.float32


def share_in_products(race: Contest) -> float:
    """The share of our way's time that convolutions, matrix products and attention take, by torch's profiler."""
    from torch.profiler import ProfilerActivity, profile

    started = time.perf_counter()
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        race.run("ours")
    elapsed = time.perf_counter() - started
    products = ("conv", "mm", "linear", "attention")
    spent = [e.self_cpu_time_total for e in profiler.key_averages() if any(name in e.key for name in products)]
    return sum(spent) / 1e6 / elapsed


def figures_of(race: Contest, rate: float) -> dict[str, Any]:
    """Medians over the rounds, and how far our images are from the reference's."""
    images = len(race.clean)
    per_second = {way: images / statistics.median(times) for way, times in race.seconds.items()}
    ratios = [b / d for b, d in zip(race.seconds["published"], race.seconds["ours"], strict=True)]
    ours, reference = race.run("ours"), race.run("reference")
    apart = (ours * 255).round() - (reference * 255).round()
    work = flop_per_image(race.denoiser)
    return {
        "parameters": sum(p.numel() for p in race.denoiser.unet.parameters()),
        "mflop_per_image": round(work / 1e6, 2),
        "mode": race.fast.mode,
        "batch": race.fast.batch,
        "images": images,
        "images_per_second": {way: round(value, 2) for way, value in per_second.items()},
        "ours_over_published": round(statistics.median(ratios), 2),
        "ours_over_published_range": [round(min(ratios), 2), round(max(ratios), 2)],
        "share_of_rate": round(work * per_second["ours"] / rate, 3),
        "share_of_our_time_in_products": round(share_in_products(race), 3) if race.clean.device.type == "cpu" else None,
        "psnr_to_reference_db": round(-10 * torch.log10(torch.mean((ours - reference) ** 2)).item(), 1),
        "largest_uint8_difference": int(apart.abs().max().item()),
    }


def draw(rows: dict[str, dict[str, Any]], path: Path) -> None:
    """Bars for each network and implementation: images per second on a logarithmic axis."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # imported late: it takes a second
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.4 + 2.3 * len(rows), 4.2), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    for i, way in enumerate(WAYS):
        heights = [row["images_per_second"][way] for row in rows.values()]
        bars = axis.bar([x + 0.2 * (i - 1.5) for x in range(len(rows))], heights, width=0.19, label=way)
        axis.bar_label(bars, labels=[f"{h:,.0f}" if h >= 100 else f"{h:.1f}" for h in heights], fontsize=8)
    axis.set_yscale("log")
    axis.set_ylim(top=axis.get_ylim()[1] * 2)
    axis.set_ylabel("images per second")
    axis.set_xticks(
        range(len(rows)),
        [f"{name}\n{row['mode']}\nours / published {row['ours_over_published']:.1f}" for name, row in rows.items()],
    )
    axis.legend(ncols=len(WAYS), fontsize=8, loc="upper left")
    axis.spines[["top", "right"]].set_visible(b=False)
    figure.savefig(path, format="png")


def main() -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser = flags("sanitizer", __doc__, "2 rounds of one small batch, without the network for CIFAR-10")
    parser.add_argument("--denoiser", type=Path, action="append", default=[], help="measure this one too; may repeat")
    parser.add_argument("--device", default=device, help="default: %(default)s")
    parser.add_argument("--name", default="sanitizer", help="of the record and picture (default: %(default)s)")
    args = parser.parse_args()
    rounds, batch, side = (2, 8, 256) if args.quick else (7, 64, 4096)
    with tempfile.TemporaryDirectory() as folder:
        built = {"small": SMALL, "digits": DIGITS} | ({} if args.quick else {"cifar10": CIFAR10})
        directories = {name: random_denoiser(config, Path(folder) / name) for name, config in built.items()}
        directories |= {directory.name: directory for directory in args.denoiser}
        races = []
        for name, directory in directories.items():
            images = batch if args.quick else {"cifar10": 128, "digits": 8192}.get(name, 1024)
            races.append(contest(name, directory, images, batch, args.device, images if args.quick else SET))
            for way in WAYS:
                races[-1].run(way)  # warm up
        products = []
        for _ in trange(rounds, desc="rounds", unit="round"):
            for race in races:
                products.append(matrix_product(args.device, side))
                for way in WAYS:
                    race.time(way)
        rate = statistics.median(flop / seconds for flop, seconds in products)
        rows = {race.name: figures_of(race, rate) for race in races}

    dtype = str(product_dtype(args.device)).removeprefix("torch.")
    print(f"\nsigma = {SIGMA}, medians of {rounds} rounds, {dtype} matrix product {rate / 1e12:.2f} Tflop/s\n")
    print("| network | parameters | mode | " + " | ".join(WAYS) + " | ours / published | of that rate | PSNR, dB |")
    print("|---" * (len(WAYS) + 6) + "|")
    for name, row in rows.items():
        speeds = " | ".join(f"{row['images_per_second'][way]:,.1f}" for way in WAYS)
        print(
            f"| {name} | {row['parameters'] / 1e6:.2f} M | {row['mode']} | {speeds} "
            f"| {row['ours_over_published']:.2f} | {row['share_of_rate']:.1%} | {row['psnr_to_reference_db']} |"
        )
    folder = results(args)
    rate_of = {"product": dtype, "product_tflops": round(rate / 1e12, 3)}
    record(args.name, {"sigma": SIGMA, "rounds": rounds, **rate_of, "networks": rows}, folder)
    draw(rows, folder / f"{args.name}.png")
    print(folder / f"{args.name}.png")


if __name__ == "__main__":
    errors.run(main)
