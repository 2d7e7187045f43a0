"""Every benchmark's command runs to its end, `--quick` on small inputs, and leaves the measured figures alone."""

import importlib
import json
import os
import sys
from pathlib import Path

import pytest
from benchmark_inputs import make_inputs
from imports import modules

from benchmarks.common.record import RESULTS

ARGUMENTS = {
    "adaptive": ["--votes votes.npy"],
    "cifar_models": ["--root published --denoiser cifar-denoiser"],
    "compare": ["--root published --denoiser cifar-denoiser --setups setups.json --extractor extractor"],
    "conv": ["--root published --denoiser cifar-denoiser"],
    "covered": ["--root published --denoiser cifar-denoiser --setups setups.json --extractor extractor"],
    "denoiser": ["--root published --denoiser cifar-denoiser"],
    "fashion": ["--root published"],
    "frontiers": [
        "--data digits",
        "--data fashion-mnist --root published",
        "--data cifar10 --root published --extractor extractor",
    ],
    "frozen": ["--root published --setups setups.json --denoiser cifar-denoiser --extractor extractor --deeper deeper"],
    "image_sets": ["--set cifar10 --root published --denoiser cifar-denoiser"],
    "influence": [
        "--set cifar10 --root published --denoiser cifar-denoiser --extractor extractor",
        "--set fashion-mnist --root published --unseen",
        "--set cifar10 --root published --unseen raw",
    ],
    "int8": ["--root published --denoiser cifar-denoiser"],
    "memory": ["--denoiser denoiser"],
    "overlap": ["--root published"],
    "redteam": [
        "--root published --setups setups.json --denoiser cifar-denoiser --extractor extractor --deeper deeper "
        "--fashion-denoiser fashion-denoiser"
    ],
    "surviving": ["--denoiser denoiser --drill poisons"],
    "transfer": ["--root published --denoiser cifar-denoiser --extractor extractor"],
}
"""What a command needs beside `--quick`; names of inputs stand for their paths."""

EXTRAS = {"int8": ("openvino", "nncf")}
"""Packages that a command needs and the extra `cpu` brings."""


def commands() -> list[str]:
    """Every benchmark that can be run, by its name; not those that only write pages."""
    return [
        name.removeprefix("benchmarks.").removesuffix(".__main__")
        for name, path in modules("benchmarks").items()
        if "__main__" in path.read_text() and not name.startswith(("benchmarks.paper", "benchmarks.tables"))
    ]


def module_of(name: str) -> str:
    """The module that `python -m benchmarks.NAME` runs."""
    package = f"benchmarks.{name}.__main__"
    return package if package in modules("benchmarks") else f"benchmarks.{name}"


ON_REQUEST = {"faults"}
"""These take many minutes and kill processes at random moments. CLEANLABEL_BENCHMARKS=all runs them too."""
RUN = {*commands()} if os.environ.get("CLEANLABEL_BENCHMARKS") == "all" else {*commands()} - ON_REQUEST
CASES = [(name, words) for name in commands() if name in RUN for words in ARGUMENTS.get(name, [""])]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("inputs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        return make_inputs(root)


def times(folder: Path) -> dict[Path, int]:
    """When each file below was last written."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "words"), CASES, ids=[f"{name} {words}".strip() for name, words in CASES])
def test_a_quick_run_ends_with_its_figures_and_leaves_the_measured_ones(
    name, words, inputs, tmp_path, monkeypatch, capsys
):
    for extra in EXTRAS.get(name, ()):
        pytest.importorskip(extra, reason="needs the extra cpu: pip install 'cleanlabel[cpu]'")
    root = inputs["denoiser"].parents[1]
    (tmp_path / "data").mkdir()
    for path in [root / "params.yaml", *(root / "data").iterdir()]:
        (tmp_path / path.relative_to(root)).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    given = [str(inputs.get(word, word)) for word in words.split()]
    monkeypatch.setattr(sys, "argv", [name, "--quick", "--results", "figures", *given])
    before = times(RESULTS)
    importlib.import_module(module_of(name)).main()
    assert times(RESULTS) == before
    written = [json.loads(path.read_text()) for path in Path("figures").glob("*.json")]
    assert written
    assert all(row["benchmark"].startswith(name) and row["machine"]["cores"] for row in written)
    assert any(line.startswith("{") and json.loads(line) in written for line in capsys.readouterr().out.splitlines())


def test_no_argument_is_kept_for_a_benchmark_that_is_gone():
    assert set(ARGUMENTS) <= set(commands())
