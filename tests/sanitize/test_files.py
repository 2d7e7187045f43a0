"""Files are replaced whole or not at all."""

import pytest

from sanitize.files import replacing


def test_a_failed_block_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "file"
    target.write_text("old")
    with pytest.raises(RuntimeError, match="half-way"), replacing(target) as scratch:
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
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "d"):
        pass  # the block made nothing
    assert [p.name for p in tmp_path.rglob("*")] == ["d", "old"]
