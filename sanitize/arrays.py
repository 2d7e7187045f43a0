"""Arrays in `.npz` files, read and written without holding them in memory, and without unpickling anything."""

import math
import os
import tempfile
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from sanitize.errors import InputError

CHUNK = 1 << 22
DAMAGED = (ValueError, OSError, EOFError, KeyError, IndexError, zipfile.BadZipFile, NotImplementedError)


@dataclass(frozen=True, eq=False)
class DiskArray:
    """An array that stays in its file. Rows are read, not mapped: a mapped file would count as memory."""

    stream: IO[bytes]
    start: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def row(self, i: int) -> NDArray[Any]:
        """The i-th element along the first axis; several threads may read at once."""
        size = math.prod(self.shape[1:]) * self.dtype.itemsize
        content = os.pread(self.stream.fileno(), size, self.start + i * size)
        return np.frombuffer(content, self.dtype).reshape(self.shape[1:])

    def whole(self) -> NDArray[Any]:
        """All of it, in memory."""
        size = math.prod(self.shape) * self.dtype.itemsize
        return np.frombuffer(os.pread(self.stream.fileno(), size, self.start), self.dtype).reshape(self.shape)


def open_arrays(path: Path) -> dict[str, DiskArray]:
    """Every array of a `.npz`, left on the disk; compressed ones are unpacked to a temporary file first.

    InputError if the file is damaged or holds Python objects.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith(".npy")]
            return {name.removesuffix(".npy"): _open(path, archive, name) for name in names}
    except DAMAGED as error:
        raise InputError(f"{path} cannot be read as .npz without unpickling ({error}); save plain arrays") from error


def _open(path: Path, archive: zipfile.ZipFile, name: str) -> DiskArray:
    with archive.open(name) as member:
        reader = npy.read_array_header_1_0 if npy.read_magic(member) == (1, 0) else npy.read_array_header_2_0
        shape, fortran, dtype = reader(member)
        start = member.tell()
        if dtype.hasobject:
            raise ValueError(f"the array {name.removesuffix('.npy')!r} holds Python objects")
        if fortran and len(shape) > 1:
            raise ValueError(f"the array {name.removesuffix('.npy')!r} is in Fortran order")
        info = archive.getinfo(name)
        if start + math.prod(shape) * dtype.itemsize > info.file_size:
            raise ValueError(f"the array {name.removesuffix('.npy')!r} is cut short")
        if info.compress_type != zipfile.ZIP_STORED:
            unpacked = tempfile.TemporaryFile()  # noqa: SIM115 (it lives as long as the array)
            while block := member.read(CHUNK):
                unpacked.write(block)
            unpacked.flush()
            return DiskArray(unpacked, 0, shape, dtype)
    stream = path.open("rb")
    stream.seek(info.header_offset + 26)
    lengths = np.frombuffer(stream.read(4), "<u2")  # of the name and the extra field in the member's own header
    return DiskArray(stream, info.header_offset + 30 + int(lengths.sum()) + start, shape, dtype)


class ArrayWriter:
    """Writes a `.npz` array after array; a large one block after block. The bytes are those of `numpy.savez`."""

    def __init__(self, path: Path) -> None:
        self._archive = zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True)

    def __enter__(self) -> "ArrayWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self._archive.close()

    def write(self, name: str, shape: tuple[int, ...], dtype: Any, blocks: Iterable[NDArray[Any]]) -> None:
        """One array of `shape`, given as consecutive blocks along its first axis."""
        header = {"descr": npy.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
        with self._archive.open(f"{name}.npy", "w", force_zip64=True) as member:
            npy.write_array_header_1_0(member, header)
            for block in blocks:
                member.write(np.ascontiguousarray(block, dtype).tobytes())
