"""Read and write arrays in `.npz` files without holding them in memory and without unpickling anything."""

import errno
import math
import os
import tempfile
import zipfile
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from cleanlabel.sanitize.errors import InputError

CHUNK = 1 << 22
PLAIN = "biufSU"
"""NumPy's kinds of numbers and text. Image sets have no others (dates, records)."""
TURN = 1 << 26
"""Bytes of an array in Fortran order that are reordered at once."""


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
        return np.frombuffer(self._bytes(size, self.start + i * size), self.dtype).reshape(self.shape[1:])

    def __getitem__(self, rows: slice | NDArray[np.int64]) -> NDArray[Any]:
        """A copy in memory of these elements along the first axis: a slice without a step, or their indices."""
        size = math.prod(self.shape[1:]) * self.dtype.itemsize
        if isinstance(rows, slice):
            first, end, step = rows.indices(len(self))
            if step != 1:
                raise ValueError(f"a slice with the step {step}; give the indices")
            made = np.empty((max(0, end - first), *self.shape[1:]), self.dtype)
            self._fill(made, self.start + first * size)
            return made
        made = np.empty((len(rows), *self.shape[1:]), self.dtype)
        for row in rows.tolist():  # the disk is asked for all of them at once
            os.posix_fadvise(self.stream.fileno(), self.start + row * size, size, os.POSIX_FADV_WILLNEED)
        for element, row in zip(made, rows.tolist(), strict=True):
            self._fill(element, self.start + row * size)
        return made

    def whole(self) -> NDArray[Any]:
        """All of it, in memory."""
        size = math.prod(self.shape) * self.dtype.itemsize
        return np.frombuffer(self._bytes(size, self.start), self.dtype).reshape(self.shape)

    def _fill(self, made: NDArray[Any], start: int) -> None:
        """Read the bytes from `start` on into a whole array."""
        view = made.data.cast("B") if made.size else memoryview(b"")
        while view:
            read = os.preadv(self.stream.fileno(), [view], start)
            if not read:
                raise InputError(f"an array was cut short at byte {start} while it was read; run again")
            view, start = view[read:], start + read

    def _bytes(self, size: int, start: int) -> bytes:
        content = os.pread(self.stream.fileno(), size, start)
        while len(content) < size:  # one read gives 2 GB at most
            more = os.pread(self.stream.fileno(), size - len(content), start + len(content))
            if not more:
                raise InputError(f"an array was cut short at byte {start + len(content)} while it was read; run again")
            content += more
        return content


def open_arrays(path: Path, needed: Collection[str], optional: Collection[str] = ()) -> dict[str, DiskArray]:
    """Arrays of a `.npz`, left on disk. Compressed arrays and those in Fortran order go to a temporary file.

    InputError if the file is damaged, lacks a needed array, or one of these arrays holds Python objects.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
            for key in needed:
                if key not in names:
                    raise InputError(f"{path} has no array {key!r}; it holds {', '.join(sorted(names)) or 'nothing'}")
            wanted = [name for name in dict.fromkeys(names) if name in (*needed, *optional)]
            return {name: _open(path, archive, f"{name}.npy") for name in wanted}
    except InputError:
        raise
    except Exception as error:  # zipfile and numpy raise anything on damaged bytes: zlib.error, RuntimeError, ..
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise  # an error of the temporary file: the array may be sound
        words = str(error) or type(error).__name__
        raise InputError(f"{path} cannot be read as .npz without unpickling ({words}); save plain arrays") from error


def _open(path: Path, archive: zipfile.ZipFile, name: str) -> DiskArray:
    with archive.open(name) as member:
        reader = npy.read_array_header_1_0 if npy.read_magic(member) == (1, 0) else npy.read_array_header_2_0
        shape, fortran, dtype = reader(member)
        start = member.tell()
        if dtype.hasobject:
            raise ValueError(f"the array {name.removesuffix('.npy')!r} holds Python objects")
        if dtype.kind not in PLAIN or min(shape, default=0) < 0:
            raise ValueError(f"the array {name.removesuffix('.npy')!r} is {dtype} of shape {shape}")
        info = archive.getinfo(name)
        size = start + math.prod(shape) * dtype.itemsize
        if size > info.file_size:
            raise ValueError(
                f"the array {name.removesuffix('.npy')!r} is cut short: it has {info.file_size} of {size} bytes"
            )
        fortran = fortran and len(shape) > 1 and 0 not in shape
        if info.compress_type != zipfile.ZIP_STORED:
            unpacked = tempfile.TemporaryFile()  # noqa: SIM115 (it lives as long as the array)
            while block := member.read(CHUNK):
                unpacked.write(block)
            unpacked.flush()
            if unpacked.tell() < size - start:
                raise ValueError(f"the array {name.removesuffix('.npy')!r} is cut short")
            array = DiskArray(unpacked, 0, shape, dtype)
            return _rows_first(array) if fortran else array
    stream = path.open("rb")
    stream.seek(info.header_offset + 26)
    lengths = np.frombuffer(stream.read(4), "<u2")  # of the name and the extra field in the member's own header
    array = DiskArray(stream, info.header_offset + 30 + int(lengths.sum()) + start, shape, dtype)
    if array.start + size - start > path.stat().st_size:
        raise ValueError(f"the array {name.removesuffix('.npy')!r} is cut short")
    return _rows_first(array) if fortran else array


def _rows_first(array: DiskArray) -> DiskArray:
    """A copy in row-major order of an array in Fortran order."""
    stored = np.memmap(array.stream, array.dtype, "r", array.start, array.shape, order="F")
    turned = tempfile.TemporaryFile()  # noqa: SIM115 (it lives as long as the array)
    rows = max(1, TURN * array.shape[0] // stored.nbytes)
    for first in range(0, array.shape[0], rows):
        turned.write(np.ascontiguousarray(stored[first : first + rows]).tobytes())
    turned.flush()
    return DiskArray(turned, 0, array.shape, array.dtype)


class ArrayWriter:
    """Writes a `.npz` array by array, and a large array block by block. The bytes equal those of `numpy.savez`."""

    def __init__(self, path: Path) -> None:
        self._archive = zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True)

    def __enter__(self) -> "ArrayWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self._archive.close()

    def write(self, name: str, shape: tuple[int, ...], dtype: Any, blocks: Iterable[NDArray[Any]]) -> None:
        """Write one array of `shape`, given as consecutive blocks along its first axis."""
        header = {"descr": npy.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
        with self._archive.open(f"{name}.npy", "w", force_zip64=True) as member:
            npy.write_array_header_1_0(member, header)
            for block in blocks:
                member.write(np.ascontiguousarray(block, dtype).tobytes())
