"""A stand-in: the seal of a version's files alone."""

import json
import tempfile
from pathlib import Path

from cleanlabel.flows.artifacts import CERTIFICATE, CERTIFICATE_ARTIFACT
from cleanlabel.flows.store.client import Store, log_files, read_directory
from cleanlabel.loading import FORMAT, SEAL, digests_of, root_of
from cleanlabel.sanitize.files import write_json


def write_files_seal(store: Store, run_id: str) -> None:
    """Write `ensemble/seal.json` over the files at the run; a certificate there names its root."""
    with tempfile.TemporaryDirectory() as scratch:
        directory = read_directory(store, run_id, "ensemble", Path(scratch))
        entries = digests_of(directory)
        write_json(directory / SEAL, {"format": FORMAT, "entries": entries})
        files = {f"ensemble/{SEAL}": (directory / SEAL).read_bytes()}
        attached = Path(scratch) / CERTIFICATE_ARTIFACT
        if attached.is_file():
            content = json.loads(attached.read_text()) | {"seal": root_of(entries)}
            write_json(CERTIFICATE, content)
            files[CERTIFICATE_ARTIFACT] = CERTIFICATE.read_bytes()
    log_files(store, run_id, files)
