"""Signatures of a certificate by ssh keys, where a team has them: `ssh-keygen` makes and checks them."""

import os
import subprocess
import tempfile
from pathlib import Path

from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.files import replacing

NAMESPACE = "cleanlabel"
"""What the signatures are for: one that was made for something else is refused."""


def signing_key() -> Path | None:
    """The private key that CLEANLABEL_SIGNING_KEY names, or its public half if an agent has it; None: nobody signs."""
    asked = os.environ.get("CLEANLABEL_SIGNING_KEY")
    return Path(asked).expanduser() if asked else None


def sign(path: Path, key: Path) -> Path:
    """Sign a file. Returns the path of the signature, the file's with `.sig`. InputError if the key cannot sign."""
    if not key.is_file():
        raise InputError(f"there is no key {key}; CLEANLABEL_SIGNING_KEY names the file of a private ssh key")
    signature = _ssh_keygen(f"sign {path} with {key}", "sign", "-n", NAMESPACE, "-f", str(key), stdin=path.read_bytes())
    target = path.with_name(f"{path.name}.sig")
    with replacing(target) as scratch:
        scratch.write_bytes(signature)
    return target


def signer_of(content: bytes, signature: bytes, signers: Path) -> str:
    """Who signed this content: a name in `signers`, in the form of ssh's `allowed_signers`.

    InputError if it is nobody there, or the signature is of other content.
    """
    if not signers.is_file():
        raise InputError(f"there is no file {signers}; give one with lines of a name and a public key")
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "sig"
        file.write_bytes(signature)
        given = ("-s", str(file), "-f", str(signers))
        wanted = f"find who of {signers} signed it"
        names = _ssh_keygen(wanted, "find-principals", *given).decode().split("\n")
        _ssh_keygen(wanted, "verify", *given, "-n", NAMESPACE, "-I", names[0], stdin=content)
    return names[0]


def _ssh_keygen(wanted: str, command: str, *words: str, stdin: bytes = b"") -> bytes:
    try:
        done = subprocess.run(["ssh-keygen", "-Y", command, *words], input=stdin, capture_output=True, check=False)
    except FileNotFoundError:
        raise InputError(f"cannot {wanted}: there is no ssh-keygen on this machine; install OpenSSH") from None
    if done.returncode:
        said = " ".join((done.stderr or done.stdout).decode(errors="replace").split())
        raise InputError(f"cannot {wanted}: {said or 'nobody there did'}")
    return done.stdout
