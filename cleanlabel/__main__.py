"""The command `cleanlabel`, or `python -m cleanlabel`: tools to use with your own code, without the pipeline."""

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version

from cleanlabel.sanitize import errors
from cleanlabel.sanitize.errors import InputError

COMMANDS = {
    "sanitize": (
        "cleanlabel.sanitize.__main__",
        "main",
        "a sanitized copy of a folder, a .npz or a published set",
    ),
    "preview": (
        "cleanlabel.sanitize.preview",
        "main",
        "a picture of trusted images, noised and sanitized, by which sigma may be chosen",
    ),
    "plan": ("cleanlabel.commands", "plan", "how many models a radius takes, and what a radius buys"),
    "certify-votes": ("cleanlabel.commands", "certify", "certificates from the votes of models of your own"),
    "verify": ("cleanlabel.flows.verify", "main", "a registered model's files against its certificate, before it runs"),
}
"""Each command's module and description, by name. A module is imported when called: torch takes seconds."""


def usage(prog: str) -> str:
    """The text of `--help`."""
    lines = [f"  {name:<15}{what}" for name, (_, _, what) in COMMANDS.items()]
    return "\n".join([f"usage: {prog} COMMAND ...", "", *lines, "", f"{prog} COMMAND --help says more of one."])


def main(words: Sequence[str] | None = None, prog: str = "cleanlabel") -> None:
    """Call the command that the first word names. words: the arguments (default: those of the process)."""
    given = list(sys.argv[1:] if words is None else words)
    if not given or given[0] in ("-h", "--help"):
        print(usage(prog))
        return
    if given[0] == "--version":
        try:
            print(f"cleanlabel {version('cleanlabel')}")
        except PackageNotFoundError:
            print("cleanlabel, not installed")
        return
    if given[0] not in COMMANDS:
        raise InputError(f"{given[0]!r} is not a command of {prog}; choose one of {', '.join(COMMANDS)}")
    module, function, _ = COMMANDS[given[0]]
    try:
        command = getattr(import_module(module), function)
    except ModuleNotFoundError as error:
        if (error.name or "cleanlabel").partition(".")[0] == "cleanlabel":
            raise
        raise InputError(f"{prog} {given[0]} needs {error.name}; run pip install 'cleanlabel[pipeline]'") from error
    command(given[1:], prog=f"{prog} {given[0]}")


def script() -> None:
    """The console script."""
    errors.run(main)


if __name__ == "__main__":
    errors.run(lambda: main(prog="python -m cleanlabel"))
