"""Sanitize a set of any size, block by block. The work can be resumed and shared by several processes.

An unfinished copy OUT has its work in `OUT.partial/`: `job.json` (the job and its entropy), and for each finished
block its images and a note, which is written last. After a kill at any point, the same command repeats at most the
block that was in progress. Several processes may share the blocks (`--shard i/N`); the one that finds all blocks done
assembles OUT.
"""

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from cleanlabel.sanitize.arrays import ArrayWriter
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.files import replacing, write_json
from cleanlabel.sanitize.folders import Reading
from cleanlabel.sanitize.keys import in_order
from cleanlabel.sanitize.noise import Entropy, draw_entropy
from cleanlabel.sanitize.pictures import write_picture
from cleanlabel.sanitize.sources import Source, open_source

BLOCK_BYTES = 1 << 22
"""Raw pixels of a block. A killed run loses at most this much work; memory holds a few times as much."""
PIECE = 256
"""Images of a piece, or one call's rows if those are more: it is written while the next piece is made."""
OTHERWISE = {
    "program": "begun by another version of this program or its libraries",
    "order": "of the same images in another order",
}
"""How an unfinished copy differs, where the values themselves say nothing."""


def block_images(source: Source) -> int:
    """How many images are a block, if all are as large as the largest."""
    largest = int((source.sizes.prod(axis=1) * source.channels).max(initial=1))
    return max(1, BLOCK_BYTES // largest)


Made = Callable[[], NDArray[np.uint8]]


class Work(Protocol):
    """The work on images of one size, uint8 (n, h, w, c), with their ids. It may go on after this call.

    Calling the answer waits for it and gives images of the same shape.
    """

    def __call__(self, images: NDArray[np.uint8], ids: tuple[str, ...], entropy: bytes) -> Made: ...


@dataclass(frozen=True)
class Shard:
    """Shard `index` of `count`, from 1 to `count`: every `count`-th block, beginning with block `index`."""

    index: int = 1
    count: int = 1

    def blocks(self, total: int) -> range:
        return range(self.index - 1, total, self.count)


def work_folder(output: Path) -> Path:
    """The folder with the work on a copy until the copy is complete."""
    return output.with_name(f"{output.name}.partial")


def is_work_folder(path: Path) -> bool:
    """Whether a folder holds only the files of unfinished work on a copy."""
    ours = {"job.json", "blocks", "files", "replaced"}
    return all(
        entry.name in ours or entry.name.startswith(".") or entry.suffix in (".lock", ".png")
        for entry in path.iterdir()
    )


def parse_shard(text: str) -> Shard:
    """The shard written as `i/N`. InputError if the text is not of this form."""
    index, _, count = text.partition("/")
    if not (index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
        raise InputError(f"--shard {text} is not a valid part; give i/N with i from 1 to N, for example 2/3")
    return Shard(int(index), int(count))


class Copy:
    """An unfinished copy of `source` at `output`. `facts` identify what it is made with; a network takes `rows`.

    program: identifies the code and libraries that make it; a copy is made by one program from its first block on.
    """

    def __init__(
        self, source: Source, output: Path, facts: dict[str, Any], rows: int = 1, program: str | None = None
    ) -> None:
        self.source, self.output, self.program = source, output, program
        self.facts: dict[str, Any] = json.loads(json.dumps(facts))  # as they will be read back
        self.partial = work_folder(output)
        self.piece, self.block = max(PIECE, rows), block_images(source)
        if rows > PIECE:  # whole calls, as far as possible
            self.block = max(rows, self.block - self.block % rows)
        self.blocks = -(-len(source) // self.block)

    def begin(self, entropy: str) -> Entropy:
        """The entropy of this copy: that of the job already begun, or a new one, drawn after the raw digest is fixed.

        InputError if another job was begun at this output.
        """
        job = self.facts | {"raw_digest": self.source.digest, "block": self.block}
        path = self.partial / "job.json"
        job |= {"program": self.program, "order": in_order(self.source)}
        with self._locked("begin", wait=True):
            if not path.is_file():
                # leftovers of a finished copy: a run was killed while cleaning up
                for stale in ("blocks", "files", "replaced"):
                    shutil.rmtree(self.partial / stale, ignore_errors=True)
                drawn = draw_entropy(entropy)
                write_json(path, job | {"entropy": drawn.hex, "entropy_source": drawn.source})
                path.chmod(0o600)
                return drawn
            begun = json.loads(path.read_text())
        wanted = job if entropy == "os" else job | {"entropy": draw_entropy(entropy).hex}
        for key, value in wanted.items():
            if begun.get(key) != value:
                how = OTHERWISE.get(key, f"with {key}={begun.get(key)}, not {value}")
                raise InputError(
                    f"{self.partial} holds an unfinished copy {how}; finish it as it was begun, or remove that folder"
                )
        return Entropy(bytes.fromhex(begun["entropy"]), begun["entropy_source"])

    def make(self, work: Work, entropy: Entropy, shard: Shard, *, progress: bool) -> None:
        """Make the unfinished blocks of this shard. Meanwhile threads read the next block and write finished pieces."""
        mine = shard.blocks(self.blocks)
        todo = [block for block in mine if not self._note(block).is_file()]
        part = f"shard {shard.index} of {shard.count}"
        with (
            self._locked("whole", shared=shard.count > 1, says="another process is working on"),
            self._locked(part.replace(" ", "-"), says=f"another process is working on {part} of"),
            ThreadPoolExecutor(1) as reader,
            ThreadPoolExecutor(1) as writer,
            tqdm(total=sum(map(self._length, mine)), unit="img", desc="sanitize", disable=not progress) as bar,
        ):
            bar.update(sum(self._length(block) for block in mine if block not in set(todo)))
            read: Future[list[NDArray[np.uint8]]] | None = None
            for position, block in enumerate(todo):
                images = (read or reader.submit(self._read, block)).result()
                following = todo[position + 1 : position + 2]
                read = reader.submit(self._read, following[0]) if following else None
                self._make_block(block, images, work, entropy.value, writer, bar)

    def _make_block(
        self,
        block: int,
        images: list[NDArray[np.uint8]],
        work: Work,
        entropy: bytes,
        writer: ThreadPoolExecutor,
        bar: "tqdm[Any]",
    ) -> None:
        """Make one block, piece by piece. The note is written last.

        A piece is begun before the last one is asked for, and written while the next is made.
        """
        rows = self._rows(block)
        made: list[NDArray[np.uint8]] = []
        written: list[Future[None]] = []
        parts = (slice(start, start + self.piece) for start in range(0, len(rows), self.piece))
        begun = ((rows[part], self._begin(work, images[part], rows[part], entropy)) for part in parts)
        for (piece, finished), _ in pairwise(chain(begun, [(rows, list)])):
            done = finished()
            if self.source.form == "folder":
                written.append(writer.submit(self._write_pictures, piece, done))
            made += done
            bar.update(len(done))
        if self.source.form == "npz":
            written.append(writer.submit(self._write_array, block, made))
        for future in written:
            future.result()
        differences = [(a.astype(np.int64) - b) ** 2 for a, b in zip(images, made, strict=True)]
        note = {"squared_error": sum(int(d.sum()) for d in differences), "values": sum(d.size for d in differences)}
        write_json(self._note(block), note)

    @property
    def complete(self) -> bool:
        """Whether every block is done, by any process."""
        return all(self._note(block).is_file() for block in range(self.blocks))

    def squared_error(self) -> tuple[int, int]:
        """(sum of squared differences in 255ths, number of values) between the raw set and its copy, exact."""
        notes = [json.loads(self._note(block).read_text()) for block in range(self.blocks)]
        return sum(note["squared_error"] for note in notes), sum(note["values"] for note in notes)

    def finish(self, manifest: Path, content: dict[str, Any]) -> dict[str, Any]:
        """Assemble the copy with its manifest. It replaces an earlier copy at `output` as a whole.

        Returns the manifest's content, `sanitized_digest` included. The work folder is removed.
        """
        with self._locked("finish", wait=True):
            files, job = self.partial / "files", self.partial / "job.json"
            if not job.is_file() or (self.source.form == "folder" and not files.is_dir()):
                done: dict[str, Any] = json.loads(manifest.read_text())  # another run has already finished the copy
            elif self.source.form == "npz":
                with replacing(self.output) as scratch:
                    self._write_npz(scratch)
                    done = content | {"sanitized_digest": open_source(scratch).digest}
                write_json(manifest, done)
            else:
                done = content | {"sanitized_digest": open_source(files, Reading(nested=True)).digest}
                write_json(files / manifest.name, done)
                if self.output.exists():
                    self.output.rename(self.partial / "replaced")
                files.rename(self.output)
            job.unlink(missing_ok=True)
        shutil.rmtree(self.partial)
        return done

    def _rows(self, block: int) -> range:
        return range(block * self.block, min(len(self.source), (block + 1) * self.block))

    def _length(self, block: int) -> int:
        return len(self._rows(block))

    def _note(self, block: int) -> Path:
        return self.partial / "blocks" / f"{block:06d}.json"

    def _read(self, block: int) -> list[NDArray[np.uint8]]:
        return list(self.source.read(self._rows(block)))

    def _begin(
        self, work: Work, images: list[NDArray[np.uint8]], rows: range, entropy: bytes
    ) -> Callable[[], list[NDArray[np.uint8]]]:
        """Begin the work on all images of one size at once, as one array. The answer gives them in their order."""
        sizes, begun = self.source.sizes[rows.start : rows.stop], []
        for size in np.unique(sizes, axis=0):
            alike = np.flatnonzero((sizes == size).all(axis=1)).tolist()
            ids = tuple(self.source.ids[rows[i]] for i in alike)
            begun.append((alike, work(np.stack([images[i] for i in alike]), ids, entropy)))

        def finished() -> list[NDArray[np.uint8]]:
            made = list(images)
            for alike, answers in begun:
                for i, image in zip(alike, answers(), strict=True):
                    made[i] = image
            return made

        return finished

    def _write_array(self, block: int, made: list[NDArray[np.uint8]]) -> None:
        with replacing(self.partial / "blocks" / f"{block:06d}.npy") as scratch, scratch.open("wb") as stream:
            np.save(stream, np.stack(made), allow_pickle=False)

    def _write_pictures(self, rows: range, made: list[NDArray[np.uint8]]) -> None:
        scratch = self.partial / f"{os.getpid()}.png"
        for row, image in zip(rows, made, strict=True):
            target = self.partial / "files" / self.source.given_names[row]
            target.parent.mkdir(parents=True, exist_ok=True)
            write_picture(image, scratch)
            scratch.replace(target)

    def _blocks_made(self) -> Iterator[NDArray[np.uint8]]:
        for block in range(self.blocks):
            made = np.load(self.partial / "blocks" / f"{block:06d}.npy", allow_pickle=False)
            yield made if self.source.channel_axis else made[..., 0]

    def _write_npz(self, path: Path) -> None:
        source = self.source
        h, w = source.size or (1, 1)
        shape = (len(source), h, w, source.channels) if source.channel_axis else (len(source), h, w)
        ids, classes = np.array(source.given_names, dtype=np.str_), np.array(source.classes, dtype=np.str_)
        with ArrayWriter(path) as writer:
            writer.write("images", shape, np.uint8, self._blocks_made())
            for name, column in (("labels", source.labels), ("ids", ids), ("classes", classes)):
                writer.write(name, column.shape, column.dtype, [column])

    @contextmanager
    def _locked(self, name: str, *, wait: bool = False, shared: bool = False, says: str = "") -> Iterator[None]:
        """Hold a lock of this copy. If another process has it, wait (with `wait`) or raise InputError."""
        self.partial.mkdir(parents=True, exist_ok=True)
        how = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB)
        with (self.partial / f"{name}.lock").open("a") as stream:
            try:
                fcntl.flock(stream, how)
            except BlockingIOError as error:
                raise InputError(f"{says} {self.output} already; wait for it, or stop it") from error
            yield
