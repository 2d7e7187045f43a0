"""The flags of every benchmark, and its figures with facts of the machine."""

import argparse
import json
import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parents[1] / "results"
QUICK = RESULTS / "quick"
"""Where `--quick` writes, which git does not track: its figures are not claims and replace no measured ones."""


def flags(name: str, doc: str | None, quick: str) -> argparse.ArgumentParser:
    """The parser of `benchmarks.NAME`, described by the first line of its docstring, with `--quick` and `--results`.

    quick: how `--quick` is smaller. Such a run ends within minutes and shows that the command works.
    """
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=(doc or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help=f"{quick}; shows only that the command works")
    where = f"folder for the figures (default: {_named(RESULTS)}, or {_named(QUICK)} with --quick)"
    parser.add_argument("--results", type=Path, help=where)
    return parser


def results(args: argparse.Namespace) -> Path:
    """The folder that this run's figures go to, made if it is not there."""
    folder: Path = args.results or (QUICK if args.quick else RESULTS)
    folder.mkdir(parents=True, exist_ok=True)
    return folder.resolve()


def machine() -> dict[str, Any]:
    """Facts of this machine, without its name."""
    cpuinfo = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    model = next((line.partition(":")[2].strip() for line in cpuinfo.splitlines() if "model name" in line), "")
    return {
        "cpu": model or platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "amx_bf16": "amx_bf16" in cpuinfo,
        "instructions": instructions(cpuinfo),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def instructions(cpuinfo: str) -> str:
    """The vector instructions that torch uses here, such as "AVX-512 with bfloat16".

    `ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2` before a command holds it to those of an older processor, which
    is then said.
    """
    if "avx512f" not in cpuinfo:
        return torch.backends.cpu.get_cpu_capability()
    if torch.backends.cpu.get_cpu_capability() == "AVX2":
        return "AVX-512, held to AVX2"
    return "AVX-512 with bfloat16" if "avx512_bf16" in cpuinfo else "AVX-512"


def record(name: str, figures: dict[str, Any], folder: Path) -> None:
    """Print the figures as one JSON line and write them to NAME.json in the folder."""
    row = {"benchmark": name, "date": datetime.now(UTC).date().isoformat(), "machine": machine(), **figures}
    (folder / f"{name}.json").write_text(json.dumps(row, indent=2, sort_keys=True) + "\n")
    print(json.dumps(row, sort_keys=True))


def _named(folder: Path) -> str:
    return f"benchmarks/{folder.relative_to(RESULTS.parent)}"
