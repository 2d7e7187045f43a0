"""Files are replaced whole or not at all."""

import errno
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from cleanlabel.sanitize.errors import is_full, sentence
from cleanlabel.sanitize.files import replacing

ROOT = Path(__file__).resolve().parents[2]
TMPDIR_TOO = ", or set TMPDIR to a directory with room,"


def test_a_failed_block_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "file"
    target.write_text("old")
    with pytest.raises(RuntimeError, match="half-way"), replacing(target) as scratch:  # noqa: PT012  (the block fails)
        scratch.write_text("ne")
        raise RuntimeError("half-way")
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_directory_is_replaced_whole(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "old").touch()
    with replacing(tmp_path / "d") as scratch:
        scratch.mkdir()
        (scratch / "new").touch()
    assert [p.name for p in tmp_path.rglob("*")] == ["d", "new"]


def test_a_directory_comes_back_when_nothing_can_take_its_place(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "old").touch()
    with pytest.raises(FileNotFoundError, match=f" -> '{tmp_path}/d'$"), replacing(tmp_path / "d"):
        pass  # the block made nothing
    assert [p.name for p in tmp_path.rglob("*")] == ["d", "old"]


WRITES = """
import sys
from pathlib import Path
from cleanlabel.sanitize import errors
from cleanlabel.sanitize.files import replacing

def main():
    with replacing(Path("out/file")) as scratch:
        if sys.argv[1] == "temporary":
            import tempfile
            with tempfile.TemporaryFile() as stream:
                stream.write(bytes(4 << 20))
        scratch.write_bytes(bytes(4 << 20))

errors.run(main)
"""


def after(setting: str, where: str, tmp_path: Path, **environment: str) -> str:
    """What a command says that writes 4 MB in a shell where `setting` came first. The old output must stay."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "file").write_text("old")
    (tmp_path / "small").mkdir()
    command = ["unshare", "-m", "sh", "-c", f'{setting}; exec "$@"', "sh", sys.executable, "-c", WRITES, where]
    done = subprocess.run(
        command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)} | environment, capture_output=True, text=True
    )
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip(f"this machine mounts nothing: {done.stderr.strip()}")
    assert done.returncode == 1
    assert (tmp_path / "out" / "file").read_text() == "old"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["file"]
    return done.stderr


def test_a_full_output_disk_is_named(tmp_path):
    said = after("mount -t tmpfs -o size=1m none out && echo old >out/file", "output", tmp_path)
    assert said == (
        f"error: {tmp_path}/out has no room left (No space left on device); make room there and run again; "
        "nothing was overwritten\n"
    ).replace(
        "; make room there and",
        f"; make room there{TMPDIR_TOO if tmp_path.is_relative_to(tempfile.gettempdir()) else ''} and",
    )


def test_a_full_temporary_directory_is_named_with_the_way_out(tmp_path):
    small = tmp_path / "small"
    said = after("mount -t tmpfs -o size=1m none small", "temporary", tmp_path, TMPDIR=str(small))
    assert said == (
        f"error: {small} has no room left (No space left on device); make room there{TMPDIR_TOO} and run again; "
        "nothing was overwritten\n"
    )


def test_a_file_above_the_users_limit_says_which_limit(tmp_path):
    said = after("ulimit -f 1024", "output", tmp_path)
    assert "File too large" in said
    assert "raise `ulimit -f` and run again; nothing was overwritten" in said


def test_where_no_temporary_directory_is_usable_tmpdir_is_named(monkeypatch):
    monkeypatch.setenv("TMPDIR", "/no/such")
    error = FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/no/such', '/tmp']")
    assert sentence(error) == (
        "no temporary file can be written in TMPDIR=/no/such, nor in /tmp; "
        "set TMPDIR to a directory that exists and has room, and run again"
    )


def test_what_libraries_say_of_a_full_disk_is_understood():
    for words in ("4096 requested and 12 written", "I/O error: No space left on device (os error 28)"):
        assert is_full(OSError(words))
        assert is_full(RuntimeError(words))
    assert not is_full(PermissionError(errno.EACCES, "No space left on device"))
