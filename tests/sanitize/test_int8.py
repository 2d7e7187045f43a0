"""The denoiser in int8: near its float32 twin, the same bits in every way it is called, and never from raw images."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from filled import filled
from tiny import FIXED, save_int8_denoiser, save_int8_facts, save_tiny_denoiser

from cleanlabel.sanitize.copies import make_copy
from cleanlabel.sanitize.denoiser import Denoiser, load_denoiser
from cleanlabel.sanitize.denoiser_files import digest_of
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.fast import accelerate
from cleanlabel.sanitize.files import write_json
from cleanlabel.sanitize.imageset import ImageSet
from cleanlabel.sanitize.ingest import digits
from cleanlabel.sanitize.quantise import quantise
from cleanlabel.sanitize.sources import open_source

SIGMA, SEEDED = 1.0, f"fixed:{FIXED.hex()}"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_int8_denoiser(tmp_path_factory.mktemp("int8"), SIGMA)


@pytest.fixture
def denoiser(made: Path, tmp_path: Path) -> Denoiser:
    """The same in a place of its own, so that its files can be changed."""
    return load_denoiser(shutil.copytree(made, tmp_path / "own"))


@pytest.fixture
def noised() -> torch.Tensor:
    images = torch.from_numpy(digits(120, 150, 0)["raw"].images[:40]).permute(0, 3, 1, 2) / 255
    return images + SIGMA * torch.randn(images.shape, generator=torch.Generator().manual_seed(1))


def test_it_is_chosen_at_its_sigma_and_held_to_the_slow_twin(denoiser, noised):
    quick = accelerate(denoiser, SIGMA, 40)
    assert quick.mode == "int8"
    assert quick.words.startswith("int8, OpenVINO 2")
    assert -10 * torch.log10(torch.mean((quick(noised) - denoiser.denoise(noised, SIGMA)) ** 2)) > 30
    assert accelerate(denoiser, SIGMA / 2, 40, images=40).mode != "int8"
    with pytest.raises(InputError, match=r"no int8 network for sigma=0\.5; set denoiser\.int8 to that"):
        accelerate(denoiser, 0.5, 40, mode="int8")


def test_an_images_bits_depend_neither_on_the_batch_nor_on_the_threads(denoiser, noised):
    straight = accelerate(denoiser, SIGMA, 40)(noised)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    quick = accelerate(denoiser, SIGMA, 40)
    assert torch.equal(quick(noised[order]), straight[order])
    assert torch.equal(quick(torch.cat([noised[3:4], 1e3 * noised[4:8]]))[0], straight[3])
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        again = replace(denoiser)  # loaded anew, so that it is not the one above
        assert torch.equal(accelerate(again, SIGMA, 40)(noised), straight)
    finally:
        torch.set_num_threads(threads)


def test_every_file_counts_in_the_digest(not_run, denoiser_dir):
    folder = not_run.int8.folder
    assert digest_of(folder.parent) == not_run.digest != digest_of(denoiser_dir)
    for path in sorted(filled(folder.iterdir())):
        content = path.read_bytes()
        path.write_bytes(content + b" ")
        assert digest_of(folder.parent) != not_run.digest
        path.write_bytes(content)


def test_the_same_images_give_the_same_files(made, tmp_path):
    again = save_tiny_denoiser(tmp_path / "again")
    quantise(load_denoiser(again), SIGMA, digits(120, 150, 0)["trusted"], again)
    one, other = load_denoiser(made), load_denoiser(again)
    assert one.int8.hashes == other.int8.hashes
    assert one.digest == other.digest


@pytest.fixture
def not_run(denoiser_dir: Path, small_set: ImageSet, tmp_path: Path) -> Denoiser:
    """A denoiser with an int8 network that only its refusals are asked of: this needs no extra."""
    directory = shutil.copytree(denoiser_dir, tmp_path / "not-run")
    save_int8_facts(directory, SIGMA, small_set)
    return load_denoiser(directory)


def test_a_changed_or_missing_file_another_thread_count_and_an_accelerator_are_refused(not_run):
    denoiser = not_run
    folder = denoiser.int8.folder
    with pytest.raises(InputError, match=r"runs on CPUs, and this process denoises on meta"):
        denoiser.int8.network(torch.device("meta"), 16)
    facts = json.loads((folder / "facts.json").read_text())
    write_json(folder / "facts.json", facts | {"threads": 4})
    with pytest.raises(InputError, match=r"facts\.json changed after the denoiser was loaded"):
        accelerate(denoiser, SIGMA, 16)
    with pytest.raises(InputError, match=r"made for 4 threads a part, this program uses 1"):
        accelerate(load_denoiser(folder.parent), SIGMA, 16)
    write_json(folder / "facts.json", {"sigma": SIGMA})
    with pytest.raises(InputError, match=r"facts\.json lacks sigma or threads"):
        load_denoiser(folder.parent)
    (folder / "network.bin").unlink()
    with pytest.raises(InputError, match=r"network\.bin does not exist; run `dvc repro"):
        load_denoiser(folder.parent)


def test_the_manifest_names_the_network_its_threads_and_versions(denoiser, small_set, tmp_path):
    np.savez(tmp_path / "raw.npz", images=small_set.images, labels=small_set.labels)
    found = make_copy(open_source(tmp_path / "raw.npz"), tmp_path / "copy.npz", SIGMA, denoiser, SEEDED, 0)
    assert found["network"] == "int8"
    assert found["int8"] == denoiser.int8.as_dict()
    assert (found["int8"]["threads"], found["int8"]["images"]) == (1, 120)
    assert set(found["int8"]["versions"]) == {"openvino", "nncf"}
    assert found["versions"]["openvino"] == found["int8"]["versions"]["openvino"]


def test_too_few_images_are_refused(denoiser_dir, small_set, tmp_path):
    with pytest.raises(InputError, match=r"denoiser\.int8=1 needs at least 16 trusted images .* there are 5; add"):
        quantise(load_denoiser(denoiser_dir), SIGMA, small_set.take(np.arange(5)), tmp_path)


def test_without_the_extra_it_is_refused(denoiser_dir, small_set, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    monkeypatch.setitem(sys.modules, "nncf", None)
    with pytest.raises(InputError, match=r"denoiser\.int8=1 needs OpenVINO and NNCF .*cleanlabel\[cpu\].* or set it"):
        quantise(load_denoiser(denoiser_dir), SIGMA, small_set, tmp_path)


def test_a_network_without_the_extra_is_refused(not_run, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(InputError, match=r"needs OpenVINO: `pip install 'cleanlabel\[cpu\]'`, or set denoiser\.int8"):
        accelerate(not_run, SIGMA, 8)
