"""The fast path: held to its slow twin, and the same bits whatever else is in the batch."""

import os
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from imports import ROOT
from tiny import save_tiny_denoiser

from cleanlabel.sanitize import fast
from cleanlabel.sanitize.denoiser import Denoiser, load_denoiser
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.fast import FastDenoiser, accelerate, choose_mode, flop_per_image, known_time

SIGMA = 0.5


@pytest.fixture(scope="module")
def compiled(denoiser: Denoiser) -> FastDenoiser:
    """Compiled once for all the tests here: it takes seconds."""
    return accelerate(denoiser, SIGMA, 16, mode="bfloat16, compiled")


@pytest.fixture
def noised() -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(40, 1, 8, 8, generator=generator)
    return images + SIGMA * torch.randn(40, 1, 8, 8, generator=generator)


def pixels(clean: torch.Tensor) -> torch.Tensor:
    return (clean * 255).round().to(torch.uint8)


def in_batches(denoise: FastDenoiser, noised: torch.Tensor) -> torch.Tensor:
    return torch.cat([denoise(noised[i : i + denoise.batch]) for i in range(0, len(noised), denoise.batch)])


@pytest.mark.parametrize(
    ("mode", "least_psnr", "largest"),
    [("float32", 100, 1), ("bfloat16", 45, 6), ("bfloat16, compiled", 45, 6)],
)
def test_every_mode_is_held_to_the_slow_twin(denoiser, compiled, noised, mode, least_psnr, largest):
    quick = compiled if mode == compiled.mode else accelerate(denoiser, SIGMA, 16, mode=mode)
    ours, reference = in_batches(quick, noised), denoiser.denoise(noised, SIGMA)
    assert (ours.dtype, ours.shape) == (torch.float32, reference.shape)
    assert -10 * torch.log10(torch.mean((ours - reference) ** 2)) > least_psnr
    assert (pixels(ours).int() - pixels(reference).int()).abs().max() <= largest


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_every_prediction_has_a_fast_path(denoiser, noised, prediction):
    other = replace(denoiser, prediction=prediction)
    ours = in_batches(accelerate(other, SIGMA, 16, mode="float32"), noised)
    torch.testing.assert_close(ours, other.denoise(noised, SIGMA), atol=1e-5, rtol=0)


@pytest.mark.parametrize("mode", ["float32", "bfloat16", "bfloat16, compiled"])
def test_an_images_bits_depend_neither_on_its_place_nor_on_the_rest_of_the_batch(denoiser, compiled, noised, mode):
    quick = compiled if mode == compiled.mode else accelerate(denoiser, SIGMA, 16, mode=mode)
    straight = in_batches(quick, noised)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    assert torch.equal(in_batches(quick, noised[order]), straight[order])
    for n in (1, 5, 16):  # padded by zeros in place of other images
        assert torch.equal(quick(noised[7 : 7 + n])[0], straight[7])
    assert torch.equal(quick(torch.cat([noised[3:4], 1e3 * noised[4:8]]))[0], straight[3])  # whatever the others are


@pytest.mark.parametrize("mode", ["bfloat16", pytest.param("bfloat16, compiled", marks=pytest.mark.slow)])
def test_the_number_of_threads_changes_no_bit(denoiser, compiled, noised, mode):
    quick = compiled if mode == compiled.mode else accelerate(denoiser, SIGMA, 16, mode=mode)
    threads = torch.get_num_threads()
    results = []
    try:
        for n in (1, 2):
            torch.set_num_threads(n)
            results.append(in_batches(quick, noised))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*results)


def test_results_of_one_batch_survive_the_next(compiled, noised):
    first = compiled(noised[:16])
    kept = first.clone()
    compiled(noised[16:32])
    assert torch.equal(first, kept)


UNETS = {
    "attention": {"down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "attention_head_dim": 8},
    "scale and shift": {"resnet_time_scale_shift": "scale_shift"},
    "resnet resampling": {"downsample_type": "resnet", "upsample_type": "resnet"},
    "skip blocks": {
        "down_block_types": ("SkipDownBlock2D", "AttnSkipDownBlock2D"),
        "up_block_types": ("AttnSkipUpBlock2D", "SkipUpBlock2D"),
        "time_embedding_type": "fourier",
        "block_out_channels": (32, 64),
    },
    "unfoldable": {
        "down_block_types": ("KDownBlock2D", "KDownBlock2D"),
        "up_block_types": ("KUpBlock2D", "KUpBlock2D"),
        "mid_block_type": None,
        "block_out_channels": (32, 32),
    },
    "learned time": {"time_embedding_type": "learned", "num_train_timesteps": 1000},
}


@pytest.mark.parametrize("kind", UNETS)
@torch.no_grad()
def test_a_network_with_its_time_computed_once_is_the_same_network(kind):
    from diffusers import UNet2DModel

    torch.manual_seed(0)
    config = {
        "sample_size": 8,
        "layers_per_block": 1,
        "block_out_channels": (8, 16),
        "down_block_types": ("DownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "UpBlock2D"),
        "norm_num_groups": 4,
        "add_attention": False,
    }
    unet = UNet2DModel(**config | UNETS[kind]).eval()
    for weights in unet.parameters():
        weights.add_(0.1 * torch.randn_like(weights))  # biases and norms begin at 0 and 1, where a slip would not show
    before = {name: value.clone() for name, value in unet.state_dict().items()}
    x_t, time = torch.randn(3, 3, 8, 8), torch.tensor(259)
    expected = unet(x_t, time).sample
    assert not torch.allclose(expected, unet(x_t, torch.tensor(500)).sample, atol=1e-2)  # time matters here
    ours = known_time(unet, time, torch.float32)(x_t.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-4)
    for name, value in unet.state_dict().items():
        assert torch.equal(value, before[name]), "the reference twin keeps its own weights"


def test_a_rescaled_timestep_is_rescaled_on_the_fast_path_too(denoiser, noised):
    rescaled = replace(denoiser, rescale_timesteps=True, alphas_cumprod=denoiser.alphas_cumprod.repeat_interleave(4))
    ours = in_batches(accelerate(rescaled, SIGMA, 16, mode="float32"), noised)
    torch.testing.assert_close(ours, rescaled.denoise(noised, SIGMA), atol=1e-5, rtol=0)


def mode_on(denoiser, monkeypatch, capability, *, bfloat16=False, amx=False, images):
    monkeypatch.setattr(fast, "has_fast_bfloat16", lambda _: bfloat16)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    return choose_mode(denoiser, images)


def test_a_small_network_is_compiled_where_its_calls_make_it_pay_and_nothing_is_timed(denoiser, monkeypatch):
    enough = int(-(-fast.COMPILE_FROM // (flop_per_image(denoiser) + fast.CALLS)))
    for bfloat16, dtype in ((True, "bfloat16"), (False, "float32")):
        for images, mode in ((1000, "float32"), (enough - 1, "float32"), (enough, f"{dtype}, compiled")):
            assert mode_on(denoiser, monkeypatch, "AVX2", bfloat16=bfloat16, images=images) == mode


def test_a_large_network_is_compiled_by_the_kind_of_machine(denoiser, monkeypatch):
    monkeypatch.setattr(fast, "BFLOAT16_FROM", flop_per_image(denoiser))
    on_amx, on_avx512 = (
        int(-(-flop // (flop_per_image(denoiser) + fast.CALLS)))
        for flop in (fast.COMPILE_FROM, fast.AVX512_COMPILE_FROM)
    )
    amx = {"bfloat16": True, "amx": True}
    assert mode_on(denoiser, monkeypatch, "AVX512", **amx, images=on_amx - 1) == "bfloat16"
    assert mode_on(denoiser, monkeypatch, "AVX512", **amx, images=on_amx) == "bfloat16, compiled"
    assert mode_on(denoiser, monkeypatch, "AVX512", bfloat16=True, images=on_avx512 - 1) == "bfloat16"
    assert mode_on(denoiser, monkeypatch, "AVX512", bfloat16=True, images=on_avx512) == "bfloat16, compiled"
    assert mode_on(denoiser, monkeypatch, "AVX512", images=None) == "float32, compiled"
    assert mode_on(denoiser, monkeypatch, "AVX2", images=10**12) == "float32"  # it would gain a tenth
    assert mode_on(denoiser, monkeypatch, "AVX2", images=None) == "float32"


COMPILE = """
import sys, torch
from pathlib import Path
from cleanlabel.sanitize.denoiser import load_denoiser
from cleanlabel.sanitize.fast import FastDenoiser
denoiser = load_denoiser(Path(sys.argv[1]), "cpu")
image = torch.rand((4, 1, 8, 8), generator=torch.Generator().manual_seed(0))
answers = [FastDenoiser(denoiser, 0.5, 4, mode)(image) for mode in ("float32", "float32, compiled")]
torch.testing.assert_close(*answers, atol=1e-5, rtol=0)
"""


HELD = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
BEYOND_AVX2 = pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() != "AVX512", reason="needs instructions beyond AVX2"
)


def python(code: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"PYTHONPATH": str(ROOT)} | environment
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], env=env, capture_output=True, text=True, check=False
    )


@BEYOND_AVX2
def test_compiled_code_is_cached_by_the_instructions_it_is_for(denoiser, monkeypatch):
    seen = []

    def plain(network, **_):
        seen.append(torch.compiler.config.cache_key_tag)
        return network

    monkeypatch.setattr(torch, "compile", plain)
    FastDenoiser(denoiser, SIGMA, 4, "float32, compiled")
    assert seen == [fast.instructions()]
    asked = python("from cleanlabel.sanitize.fast import instructions; print(instructions())", **HELD)
    assert asked.stdout.strip() not in ("", fast.instructions())


@BEYOND_AVX2
@pytest.mark.skipif(
    not os.environ.get("CLEANLABEL_COMPILE_TWICE"), reason="a minute; CLEANLABEL_COMPILE_TWICE=1 runs it"
)
def test_code_that_was_compiled_for_other_instructions_is_not_taken_from_a_shared_cache(tmp_path):
    save_tiny_denoiser(tmp_path / "denoiser")
    for held_to in (HELD, {}):
        done = python(COMPILE, str(tmp_path / "denoiser"), TORCHINDUCTOR_CACHE_DIR=str(tmp_path / "cache"), **held_to)
        assert done.returncode == 0, done.stderr


def test_asking_again_makes_nothing_again(denoiser):
    first = accelerate(denoiser, SIGMA, 16, images=1000)
    assert accelerate(denoiser, SIGMA, 16, images=2000) is first
    assert accelerate(denoiser, 2 * SIGMA, 16, images=1000) is not first


def test_without_a_compiler_it_runs_uncompiled_and_says_so_once(denoiser, noised, monkeypatch, tmp_path):
    import torch._inductor.config as inductor

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    with (
        inductor.patch({"cpp.cxx": ("no-such-compiler",), "force_disable_caches": True}),
        pytest.warns(RuntimeWarning, match="runs uncompiled, which is slower.*install a C\\+\\+ compiler") as said,
    ):
        quick = FastDenoiser(denoiser, SIGMA, 8, "bfloat16, compiled")
    assert len(said) == 1
    assert quick.mode == "bfloat16"
    assert torch.equal(quick(noised[:8]), accelerate(denoiser, SIGMA, 8, mode="bfloat16")(noised[:8]))


def test_it_compiles_here(compiled):
    assert compiled.mode == "bfloat16, compiled"


def test_it_consumes_no_global_randomness_and_warns_of_nothing(denoiser, noised):
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        accelerate(denoiser, SIGMA, 4, images=40)(noised[:4])
    assert torch.equal(torch.rand(3), expected)


def test_what_cannot_be_is_refused(denoiser, noised):
    with pytest.raises(InputError, match="sigma=1000 exceeds"):
        accelerate(denoiser, 1000, 16)
    with pytest.raises(InputError, match="batch=0 is not positive"):
        accelerate(denoiser, SIGMA, 0)
    with pytest.raises(InputError, match="mode='int4' is unknown; choose one of 'float32'"):
        accelerate(denoiser, SIGMA, 16, mode="int4")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="40 images do not fit a batch of 16"):
        accelerate(denoiser, SIGMA, 16, mode="float32")(noised)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("mode", ["bfloat16", "bfloat16, compiled"])
def test_on_a_gpu_it_is_held_to_the_slow_twin_and_to_row_independence(tmp_path: Path, noised, mode):
    on_gpu = load_denoiser(save_tiny_denoiser(tmp_path), "cuda")
    quick = accelerate(on_gpu, SIGMA, 16, mode=mode)
    assert quick.mode == mode
    ours, reference = in_batches(quick, noised), on_gpu.denoise(noised.cuda(), SIGMA)
    assert ours.device.type == "cuda"
    assert (pixels(ours).int() - pixels(reference).int()).abs().max() <= 6
    order = torch.randperm(40)
    assert torch.equal(in_batches(quick, noised[order]), ours[order])
