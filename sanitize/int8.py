"""The denoiser's network in 8-bit integers, for one sigma: its files, and how OpenVINO runs them on a CPU.

`sanitize.quantise` makes them. They are OpenVINO's own format, XML and plain arrays: nothing is unpickled.
"""

import hashlib
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cleanlabel.sanitize.denoiser_files import INT8_FACTS, INT8_NETWORK, int8_files, read_config
from cleanlabel.sanitize.device import is_accelerator
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.files import file_digest

THREADS = 1
"""Threads of one part of a batch: with more, the last bits could differ."""
PIXELS = 16 * 32 * 32
"""The most pixels of a part, as in 16 images of 32x32: its intermediate values fit a processor's cache."""
EXTRA = "`pip install 'cleanlabel[cpu]'`"


@dataclass(frozen=True)
class Int8:
    """The files of a denoiser's int8 network. Made by `read_int8`.

    hashes: sha256 of each file, by name. facts: sigma, the images that its scales were set on, threads of a part,
    versions of the programs that made it.
    """

    folder: Path
    hashes: dict[str, str]
    facts: dict[str, Any]

    @property
    def sigma(self) -> float:
        """The noise that it removes, in [0,1] pixel units."""
        return float(self.facts["sigma"])

    @property
    def digest(self) -> str:
        """sha256 over all of its files."""
        return hashlib.sha256("".join(self.hashes[name] for name in sorted(self.hashes)).encode()).hexdigest()

    def as_dict(self) -> dict[str, Any]:
        """For plan and manifest: the digest and the facts."""
        return {"digest": self.digest, **self.facts}

    def network(self, device: torch.device, batch: int) -> "Int8Network":
        """The network for batches of this size. InputError without OpenVINO, on accelerators, or for changed files."""
        if is_accelerator(device):
            raise InputError(
                f"the int8 network in {self.folder} runs on CPUs, and this process denoises on {device.type}; set "
                "denoiser.int8 to null"
            )
        if self.facts["threads"] != THREADS:
            raise InputError(
                f"the int8 network in {self.folder} was made for {self.facts['threads']} threads a part, this program "
                f"uses {THREADS}, and the bits differ with it; make it again with `dvc repro --force denoiser`"
            )
        content = {name: (self.folder / name).read_bytes() for name in self.hashes}
        changed = [name for name, read in content.items() if hashlib.sha256(read).hexdigest() != self.hashes[name]]
        if changed:
            raise InputError(f"{self.folder / changed[0]} changed after the denoiser was loaded; restore it")
        return Int8Network(content[INT8_NETWORK], content[INT8_NETWORK.replace("xml", "bin")], batch)


def read_int8(directory: Path) -> Int8 | None:
    """The int8 network beside a denoiser, or None. InputError if a file is missing or its facts are damaged."""
    files = int8_files(directory)
    if not files:
        return None
    facts = read_config(files[0].parent / INT8_FACTS)
    numbers = [facts.get(key) for key in ("sigma", "threads")]
    if not all(isinstance(number, int | float) and number > 0 for number in numbers):
        raise InputError(f"{files[0].parent / INT8_FACTS} lacks sigma or threads; restore it")
    return Int8(files[0].parent, {path.name: file_digest(path) for path in files}, facts)


class Int8Network:
    """The network on a CPU, for batches of one size: in equal parts, as many at once as torch has threads.

    A part always has the same shape, scales are constants, and no operation mixes rows. So an image's result depends
    neither on the others nor on how many threads there are; it does depend on the processor and OpenVINO's version.
    """

    def __init__(self, xml: bytes, weights: bytes, batch: int) -> None:
        report_nothing()
        try:
            import openvino  # imported late: an extra
        except ImportError as error:
            raise InputError(
                f"this denoiser has an int8 network, which needs OpenVINO: {EXTRA}, or set denoiser.int8 to null"
            ) from error
        self.words = f"int8, OpenVINO {installed('openvino')}, {THREADS} thread(s) a part"
        core = openvino.Core()
        model = core.read_model(xml, weights)
        shape = [model.input().partial_shape[i].get_length() for i in range(1, 4)]
        self._rows = -(-batch // -(-batch * shape[1] * shape[2] // PIXELS))
        model.reshape([self._rows, *shape])
        parts = max(1, torch.get_num_threads() // THREADS)
        settings = {
            "INFERENCE_NUM_THREADS": parts * THREADS,
            "NUM_STREAMS": parts,
            "INFERENCE_PRECISION_HINT": "f32",  # what is not int8 is the same on machines with and without bfloat16
            "ENABLE_CPU_PINNING": False,  # every process would take the same cores
        }
        compiled = core.compile_model(model, "CPU", settings)
        self._shape = tuple(compiled.output().shape[1:])
        self._queue = openvino.AsyncInferQueue(compiled, parts)

    def __call__(self, x_t: Tensor) -> Tensor:
        """The network's output, float32 (n, ...), for x_t, float32 (n, c, s, s), both on the CPU."""
        n, rows = len(x_t), self._rows
        inputs = np.zeros((-(-n // rows) * rows, *x_t.shape[1:]), dtype=np.float32)
        inputs[:n] = x_t.numpy()
        outputs = np.empty((len(inputs), *self._shape), dtype=np.float32)

        def keep(request: Any, start: int) -> None:
            outputs[start : start + rows] = request.get_output_tensor().data

        self._queue.set_callback(keep)
        for start in range(0, len(inputs), rows):
            self._queue.start_async([inputs[start : start + rows]], start)
        self._queue.wait_all()
        return torch.from_numpy(outputs[:n])


def report_nothing() -> None:
    """Keep OpenVINO and NNCF from reporting their use over the network: both go on without the package that does."""
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]


def installed(name: str) -> str:
    """A package's version, or `not installed`."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
