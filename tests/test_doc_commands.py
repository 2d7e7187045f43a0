"""Every command on the pages is run, or accepted by the parser of what it calls."""

import argparse
import importlib
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from dvc.cli.parser import get_main_parser
from imports import ROOMS, ROOT, modules
from PIL import Image
from ruamel.yaml import YAML

from cleanlabel.__main__ import COMMANDS, main

PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]
FENCE = re.compile(r"(?ms)^```([^\n`]*)\n(.*?)^```[ ]*$")
OURS = ("python", "make", "dvc", "cleanlabel")
OTHERS = ("prefect", "mlflow", "hf")
LISTED = {
    ". .venv/bin/activate": "`make setup` makes this file",
    "python train_own.py photos": "the page itself has this script",
    "python train_own.py sanitized": "the page itself has this script",
    "docker compose up --detach --wait": "not every machine has containers; tests/test_compose.py reads the file",
}
"""Commands that are not checked here, and why."""
NUMBERS = dict.fromkeys(["N", "M", "A", "R", "K", "i"], "3")
"""Words of the pages that stand for numbers."""
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


class Accepted(Exception):
    """Raised in place of carrying a command out."""


def commands() -> dict[str, bool]:
    """Every command of the pages, and whether it stands there whole: in a fenced block, not within a sentence."""
    found: dict[str, bool] = {}
    for page in PAGES:
        text = page.read_text()
        for language, block in FENCE.findall(text):
            lines = re.findall(r"(?m)^ +cmd: (.*)$", block) if language == "yaml" else []
            if language in ("", "bash", "console", "sh", "shell") and not re.search("[│►]", block):
                lines = block.replace("\\\n", " ").splitlines()
            found |= {line: True for each in lines if (line := re.sub(r"\s+#.*|^\$ ", "", each).strip())}
        for code in re.findall(r"`([^`]+)`", FENCE.sub("", text)):
            line = re.sub(r"^\w+=\S+ |\.venv/bin/", "", " ".join(code.split()))
            if line.split()[0] in (*OURS, *OTHERS) and (" " in line or line == "make"):
                found.setdefault(line, False)
    return found


def accepted(monkeypatch, run, *, whole: bool) -> None:
    """Hold that the command's parser takes its words; within a sentence, required ones may be left out."""
    parse = argparse.ArgumentParser.parse_args

    def stop(self, *given, **more):
        for action in self._actions:
            action.required = action.required and whole
        parse(self, *given, **more)
        raise Accepted

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop)
    with pytest.raises(Accepted):
        run()


def python_command(monkeypatch, name: str, words: list[str], *, whole: bool) -> None:
    """`python -m NAME …`: the module is there and takes the words; one without a parser takes none."""
    name = name.removeprefix("cleanlabel.")
    room = name.partition(".")[0]
    known = modules(room) if room in ROOMS else {}
    full = name if room == "benchmarks" else f"cleanlabel.{name}"
    full = f"{full}.__main__" if f"{full}.__main__" in known else full
    assert full in known, f"there is no {name}"
    if "parse_args" in known[full].read_text():
        monkeypatch.setattr(sys, "argv", [name, *words])
        accepted(monkeypatch, importlib.import_module(full).main, whole=whole)
    else:
        assert not words


def dvc_command(words: list[str], *, whole: bool) -> None:
    """DVC's own parser takes the words; stages and files that they name are there."""
    if not whole and len(words) == 1:
        with pytest.raises(SystemExit, match="^0$"):
            get_main_parser().parse_args([*words, "--help"])
        return
    parsed = get_main_parser().parse_args(words)
    stages = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]
    named = getattr(parsed, "targets", None) or []
    assert [word for word in named if word not in stages and not (ROOT / word).exists()] == []


def help_of(*words: str) -> str:
    """What another program says of a subcommand."""
    program = Path(sys.executable).parent / words[0]
    return subprocess.run([program, *words[1:], "--help"], capture_output=True, text=True, cwd=ROOT, check=True).stdout


def light_command(monkeypatch, tmp_path, denoiser_dir, words: list[str], *, whole: bool) -> None:
    """`cleanlabel …`: carried out on small inputs; within a sentence its words are parsed."""
    monkeypatch.chdir(tmp_path)
    if not whole and (words[0], len(words) > 1) != ("plan", True):
        assert words[0] in COMMANDS
        accepted(monkeypatch, lambda: main([word for word in words if word != "…"]), whole=False)
        return
    if words[0] == "verify":  # it needs a store with that version: tests/flows/test_verify.py
        accepted(monkeypatch, lambda: main(words), whole=True)
        return
    Path("photos/cat").mkdir(parents=True)
    Image.fromarray(np.zeros((8, 8), dtype=np.uint8)).save("photos/cat/1.png")
    shutil.copytree("photos", "photos-trusted")
    np.save("votes.npy", np.zeros((20, 5), dtype=int))
    np.save("truth.npy", np.zeros(5, dtype=int))
    if words[0] in ("sanitize", "preview"):
        words = [*words, "--dry-run"] if words[0] == "sanitize" else words
        words[words.index("--denoiser") + 1] = str(denoiser_dir)
    main(words)


@pytest.mark.parametrize(("command", "whole"), commands().items(), ids=commands())
def test_a_command_of_the_pages_runs_or_is_accepted(command, whole, monkeypatch, tmp_path, denoiser_dir):
    if command in LISTED:
        return
    program, *words = [NUMBERS.get(word, word) for word in shlex.split(command)]
    if program == "python" and words[0] == "-m":
        python_command(monkeypatch, words[1], words[2:], whole=whole)
    elif program == "python":
        assert (ROOT / words[0]).is_file()
    elif program == "make":
        subprocess.run(["make", "--dry-run", *words], cwd=ROOT, capture_output=True, check=True)
    elif program == "cleanlabel":
        light_command(monkeypatch, tmp_path, denoiser_dir, words, whole=whole)
    elif program == "dvc":
        dvc_command(words, whole=whole)
    elif program in OTHERS:
        names = [*re.match(r"(?:[a-z]+ )*", " ".join(words) + " ")[0].split()]
        said = help_of(program, *names)
        assert re.search(rf"(?i)usage:.*\b{names[-1]}\b", said)
        assert [word for word in words if word.startswith("-") and word not in said] == []
    elif "install" in words[:2] and program in ("pip", "uv"):
        named = re.findall(r"\[([\w,-]+)\]", command)
        assert {extra for each in named for extra in each.split(",")} <= {*EXTRAS}
    elif program == "export":
        assert all(re.match(r"[A-Z_]+=.", word) for word in words)
    elif program == "cp":
        assert (ROOT / words[0]).exists()
    else:
        pytest.fail(f"no way to check `{command}`: add one, or list it with a reason")


def test_what_is_listed_stands_on_a_page():
    assert set(LISTED) <= set(commands())
