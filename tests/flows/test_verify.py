"""`cleanlabel verify`: a model against a certificate that was got another way, and its signature."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from registered import Registered, seal_again

from cleanlabel import loading, signing
from cleanlabel.__main__ import main
from cleanlabel.flows.store.client import log_files
from cleanlabel.flows.store.registry import SMOOTHED
from cleanlabel.sanitize.errors import InputError

URI = f"models:/{SMOOTHED}/1"
RAN = "\nopen('ran', 'w').write('it ran')\n"


def files_of(version: Registered) -> Path:
    return Path(f".mlflow/artifacts/{version.version.run_id}/artifacts/ensemble")


def verified(capsys, *words: str) -> dict[str, str]:
    """The command's checks by name; `status` is its exit status."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(["verify", *words])
    lines = [line for line in capsys.readouterr().out.splitlines() if line[:4] in ("ok  ", "FAIL")]
    found = {line[6:].partition(":")[0]: line[:4].strip() + line[6:].partition(":")[2] for line in lines}
    return found | {"status": str(ended.value.code)}


def failed(found: dict[str, str]) -> set[str]:
    assert found["status"] == "1"
    assert "answers" not in found, "it was loaded"
    return {name for name, words in found.items() if words.startswith("FAIL")}


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """A key, and the list of those who may sign: it, as `release@example.org`."""
    if shutil.which("ssh-keygen") is None:
        pytest.skip("needs ssh-keygen")
    folder = tmp_path / "keys"
    folder.mkdir()
    for name in ("ours", "theirs"):
        make = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
        subprocess.run(make, check=True)
    (folder / "signers").write_text(f"release@example.org {(folder / 'ours.pub').read_text()}")
    return folder


def test_a_version_as_it_was_certified_is_verified_and_answers_its_example(version, keys, capsys):
    certificate = Path("reports/certificate.json")
    signature = signing.sign(certificate, keys / "ours")
    log_files(version.store, version.version.run_id, {f"ensemble/{loading.SIGNATURE}": signature.read_bytes()})
    subprocess.run(["git", "init", "-q"], check=True)
    subprocess.run(["git", "add", "reports/certificate.json"], check=True)
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    subprocess.run(["git", *who, "commit", "-qm", "certified"], check=True)
    shutil.move(certificate, "kept.json")
    found = verified(capsys, URI, "--certificate", "HEAD:reports/certificate.json", "--signers", str(keys / "signers"))
    names = ["seal", "files", "attached certificate", "plan", "signature", "answers", "status"]
    assert list(found) == names
    assert found["status"] == "0"
    assert "by release@example.org" in found["signature"]
    assert "its input example is" in found["answers"]


CHANGES = {
    "code": lambda d: (d / "code/cleanlabel/served.py").open("a").write(RAN),
    "bytecode": lambda d: [
        (d / "code/__pycache__").mkdir(),
        (d / "code/__pycache__/x.cpython-311.pyc").write_text("x"),
    ],
    "loader": lambda d: (d / "MLmodel").write_text(
        (d / "MLmodel").read_text().replace("loader_module: ", "loader_module: x")
    ),
    "network": lambda d: (d / "data/networks/draw-00001.safetensors").unlink(),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("sealed_again", [False, True])
def test_no_change_in_the_store_passes_with_a_seal_written_for_it(version, capsys, change, sealed_again):
    certificate = shutil.copy("reports/certificate.json", "kept.json")
    CHANGES[change](files_of(version))
    if sealed_again:  # whoever may write the store may write the seal and the attached certificate, too
        seal_again(version.store, version.number)
    found = verified(capsys, URI, "--certificate", str(certificate))
    assert failed(found) == ({"seal", "attached certificate"} if sealed_again else {"files"})
    assert not Path("ran").exists()


def test_radii_edited_in_the_description_are_named_even_under_the_same_plan_digest(version, capsys):
    path = files_of(version) / "data/networks/smoothed.json"
    content = json.loads(path.read_text())
    content["plan"]["alpha"] = 0.5
    content["attempts_before"] = 3
    path.write_text(json.dumps(content))
    found = verified(capsys, URI)
    assert failed(found) == {"files", "plan"}
    assert "differs in alpha, attempts_before" in found["plan"]


def test_the_certificate_of_another_version_is_named_as_such(version, capsys):
    found = verified(capsys, f"models:/{SMOOTHED}/2")  # reports/ holds that of version 1
    assert failed(found) == {"seal", "attached certificate", "plan"}
    assert "it is of another version: give this one's by --certificate" in found["plan"]


def test_a_damaged_or_missing_seal_fails_and_ends_the_checks(version, capsys):
    (files_of(version) / "seal.json").write_text("{")
    found = verified(capsys, URI)
    assert failed(found) == {"seal"}
    assert "is damaged" in found["seal"]


def test_a_signature_of_somebody_else_of_other_content_or_none_fails(version, keys, capsys):
    def signature() -> str:
        return verified(capsys, URI, "--signers", str(keys / "signers"))["signature"]

    assert "is not signed" in signature()
    certificate = Path("reports/certificate.json")
    attached = files_of(version) / loading.SIGNATURE
    shutil.copy(signing.sign(certificate, keys / "theirs"), attached)
    assert signature().startswith("FAIL")
    Path("other.json").write_text("{}")
    shutil.copy(signing.sign(Path("other.json"), keys / "ours"), attached)
    assert "incorrect signature" in signature()
    made = ["ssh-keygen", "-q", "-Y", "sign", "-n", "git", "-f", str(keys / "ours"), str(certificate)]
    certificate.with_name("certificate.json.sig").unlink()
    subprocess.run(made, check=True, capture_output=True)  # a signature for another purpose
    shutil.copy(certificate.with_name("certificate.json.sig"), attached)
    assert signature().startswith("FAIL")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((f"models:/{SMOOTHED}/99",), f"models:/{SMOOTHED}/99 is no model in sqlite:"),
        (("models:/nothing@here",), "models:/nothing@here is no model in sqlite:"),
        (("runs:/0123/ensemble",), "runs:/0123/ensemble is no model in sqlite:"),
        (("nowhere",), "nowhere is no model in sqlite:"),
        (("data",), "data is no model in sqlite:"),
        ((URI, "--certificate", "nowhere.json"), "there is no certificate nowhere.json"),
        ((URI, "--certificate", "HEAD:nowhere.json"), "git has no HEAD:nowhere.json here"),
        ((URI, "--certificate", "reports/metrics.json"), "reports/metrics.json is not a certificate"),
        ((URI, "--certificate", "old.json"), "old.json names no seal: it is older than seals"),
    ],
)
def test_what_cannot_be_verified_is_one_sentence(version, words, said):
    old = json.loads(Path("reports/certificate.json").read_text())
    del old["seal"]
    Path("old.json").write_text(json.dumps(old))
    with pytest.raises(InputError, match=said) as refusal:
        main(["verify", *words])
    assert "\n" not in str(refusal.value)


def test_a_store_that_is_away_is_one_sentence(version, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(InputError, match=r"the MLflow store http://127.0.0.1:9 "):
        main(["verify", URI])


def test_a_logged_model_is_referred_to_its_version(version):
    (logged,) = (
        m
        for m in version.store.client.search_logged_models([version.store.experiment_id])
        if m.source_run_id == version.version.run_id
    )
    with pytest.raises(InputError, match="is a logged model, whose networks are at its run"):
        main(["verify", f"models:/{logged.model_id}"])


def test_a_key_that_is_missing_or_no_key_and_a_machine_without_openssh_are_one_sentence(tmp_path, monkeypatch):
    file = tmp_path / "certificate.json"
    file.write_text("{}")
    monkeypatch.setenv("CLEANLABEL_SIGNING_KEY", "~/nowhere")
    with pytest.raises(InputError, match="there is no key .*nowhere; CLEANLABEL_SIGNING_KEY names"):
        signing.sign(file, signing.signing_key())
    if shutil.which("ssh-keygen"):
        with pytest.raises(InputError, match="cannot sign .*certificate.json with"):
            signing.sign(file, file)
    with pytest.raises(InputError, match="there is no file .*nobody"):
        signing.signer_of(b"{}", b"", tmp_path / "nobody")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="there is no ssh-keygen on this machine; install OpenSSH"):
        signing.sign(file, file)
    assert [path.name for path in tmp_path.iterdir()] == ["certificate.json"]
    monkeypatch.delenv("CLEANLABEL_SIGNING_KEY")
    assert signing.signing_key() is None
