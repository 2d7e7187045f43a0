"""The pipeline end to end, with the real services: DVC stages, Prefect flows, MLflow store and registry.

One copy of the project in a temporary folder, with a small denoiser and a small ensemble; the tests build on each
other's state in the order they stand here.
"""

import contextlib
import copy
import hashlib
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from filled import filled
from PIL import Image
from project import Project
from services import s3_store

from cleanlabel.models.rounding import down
from cleanlabel.sanitize.imageset import load, save_npz

pytestmark = pytest.mark.slow

STAGES = ["ingest", "denoiser", "sanitize", "train", "smooth", "certify"]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return Project(tmp_path_factory.mktemp("pipeline") / "project")


@pytest.fixture(scope="module")
def made(project: Project) -> subprocess.CompletedProcess[str]:
    return project.run("dvc", "repro")


def test_a_fresh_clone_becomes_a_certified_version_in_the_registry(project, made):
    assert [s for s in STAGES if f"Running stage '{s}'" in made.stdout] == STAGES
    assert "redteam/dvc.yaml" not in made.stdout  # the drill stands beside the pipeline, for whoever asks for it
    assert sorted(project.draws()) == list(range(12))
    assert project.query("select count(*) from runs where status != 'FINISHED'") == [(0,)]
    versions = project.query("select name, count(*) from model_versions group by name")
    assert sorted(versions) == [("sanitized-classifier", 1), ("smoothed-classifier", 1)]
    tags = dict(project.query("select key, value from model_version_tags where name = 'smoothed-classifier'"))
    certificate = json.loads((project.root / "reports" / "certificate.json").read_text())
    assert tags["cleanlabel.votes_root"] == certificate["votes_root"]
    assert tags["cleanlabel.gate"] == "passed"
    assert project.query("select alias, version from registered_model_aliases") == [("candidate", 1)]
    words = project.query("select description from model_versions where name = 'smoothed-classifier'")[0][0]
    assert "**Not covered**" in words
    assert float(tags["cleanlabel.certified_accuracy_r0_00"]) == certificate["at_radii"][0]["certified_accuracy"]
    parent = project.query("select run_id from model_versions where name = 'smoothed-classifier'")[0][0]
    attached = project.root / ".mlflow" / "artifacts" / parent / "artifacts" / "ensemble" / "certificate"
    assert sorted(p.name for p in attached.iterdir()) == [
        "certificate.json",
        "certified_accuracy.csv",
        "certified_accuracy.png",
        "gate.json",
        "index.html",
        "metrics.json",
        "points.csv",
        "sanitized_examples.png",
    ]


def test_the_defended_model_has_no_radius(project, made):
    texts = project.query("select description from model_versions where name = 'sanitized-classifier'")
    assert "not certified" in texts[0][0]
    tags = project.query("select key from model_version_tags where name = 'sanitized-classifier'")
    metrics = project.query(
        "select m.key from metrics m join tags t on t.run_uuid = m.run_uuid "
        "where t.key = 'cleanlabel.kind' and t.value = 'sanitized'"
    )
    assert not [name for (name,) in [*tags, *metrics] if "radius" in name or "certified" in name]


def test_the_certificate_can_be_computed_again_from_the_tracked_votes(project, made):
    from cleanlabel.models.certificate import certify
    from cleanlabel.models.votes import count_votes

    certificate = json.loads((project.root / "reports" / "certificate.json").read_text())
    votes = np.load(project.root / "data" / "ensemble" / "votes.npy", allow_pickle=False)
    test = load(project.root / "data" / "test.npz")
    counts = count_votes(dict(enumerate(votes)), 12, len(test), 10)
    label, radius = certify(counts, 12, certificate["sigma"], certificate["level"])
    lines = (project.root / "data" / "points.csv").read_text().splitlines()[1:]
    assert [line.split(",")[2:4] for line in lines] == [
        [str(y), str(r)] for y, r in zip(label.tolist(), down(radius, 6).tolist(), strict=True)
    ]
    assert certificate["abstentions"] == int((label == -1).sum())
    assert hashlib.sha256(bytes.fromhex(certificate["entropy"])).hexdigest() == certificate["entropy_commitment"]


def test_prefect_shows_the_certificate(project, made):
    with sqlite3.connect(project.root / ".prefect" / "prefect.db") as database:
        keys = {key for (key,) in database.execute("select key from artifact")}
        states = database.execute(
            "select flow.name, flow_run.state_name from flow_run join flow on flow.id = flow_run.flow_id"
        ).fetchall()
    assert {"certificate", "certified-accuracy"} <= keys
    assert sorted(states) == [("certify", "Completed"), ("smooth", "Completed")]


def test_a_second_repro_runs_nothing_and_the_status_is_clean(project, made):
    before = project.outputs()
    assert "Running stage" not in project.run("dvc", "repro").stdout
    assert "up to date" in project.run("dvc", "status", *STAGES).stdout
    assert project.outputs() == before


def test_tracked_outputs_hold_no_times_and_no_run_ids(project, made):
    run_ids = [run_id for (run_id,) in project.query("select run_uuid from runs")]
    for name in filled(project.outputs()):
        content = (project.root / name).read_bytes()
        assert not any(run_id.encode() in content for run_id in filled(run_ids)), name
        if name.endswith((".json", ".csv")):
            assert not re.search(rb"20\d\d-\d\d-\d\d|\"(times?|dates?|host|seconds)\"", content), name
            assert str(project.root).encode() not in content, name


def test_the_curve_can_be_drawn_by_dvc(project, made):
    project.run("dvc", "plots", "show")
    assert "certified_accuracy" in (project.root / "dvc_plots" / "index.html").read_text()
    shutil.rmtree(project.root / "dvc_plots")


def test_nothing_is_written_outside_the_projects_folder(project, made):
    assert [str(p) for p in project.home.rglob("*") if p.is_file()] == []


def test_an_audit_passes_until_one_vote_is_edited_in_the_artifact_store(project, made):
    passed = project.run("python", "-m", "flows.audit", "--version", "1", "--replay", "2")
    lines = passed.stdout.strip().splitlines()
    assert len(lines) == 13
    assert all(line.startswith("ok  ") for line in lines)
    assert sum("100.0% of the votes repeated (all must, on the same machine" in line for line in lines) == 2

    run_id = project.draws()[5]
    victim = project.root / ".mlflow" / "artifacts" / run_id / "artifacts" / "votes.npy"
    original = victim.read_bytes()
    votes = np.load(victim, allow_pickle=False)
    votes[0] = (votes[0] + 1) % 10
    np.save(victim, votes, allow_pickle=False)
    failed = project.run("python", "-m", "flows.audit", "--version", "1", check=False)
    assert failed.returncode == 1
    assert f"FAIL  votes: the votes of run {run_id} (draw 5) do not match" in failed.stdout

    victim.write_bytes(original)
    assert project.run("python", "-m", "flows.audit", "--version", "1").returncode == 0


def second_clone(project: Project, tmp_path: Path) -> Project:
    """A clone of the committed project, with an empty cache and no store, but for where its remote is."""
    root = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", str(project.root), str(root)], env=project.env, check=True)
    clone = copy.copy(project)
    clone.root = root
    return clone


@pytest.mark.parametrize("kind", ["directory", "s3"])
def test_a_second_clone_pulls_every_output_and_reproduces_nothing(project, made, tmp_path, kind):
    commit = ("git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "--allow-empty", "-m", "a version")
    project.run("git", "add", "--all")
    project.run(*commit)
    with contextlib.ExitStack() as stack:
        if kind == "directory":
            where = [("url", str(tmp_path / "remote"))]
        else:
            s3 = stack.enter_context(s3_store(tmp_path, "dvc"))
            keys = (s3.env["AWS_ACCESS_KEY_ID"], s3.env["AWS_SECRET_ACCESS_KEY"])
            where = [("url", "s3://dvc/cleanlabel"), ("endpointurl", s3.url)]
            where += [("access_key_id", keys[0]), ("secret_access_key", keys[1])]
        clone = second_clone(project, tmp_path)
        for one in (project, clone):
            for option, value in where:
                one.run("dvc", "remote", "modify", "--local", "team", option, value)
        project.run("dvc", "push")
        if kind == "s3":  # as CI would, without a pull of its own
            first = clone.run("dvc", "repro", "--pull", "--allow-missing")
            assert "Running stage" not in first.stdout
        clone.run("dvc", "pull")
        assert clone.outputs() == project.outputs()
        assert "Running stage" not in clone.run("dvc", "repro", "--pull", "--allow-missing").stdout
        assert "up to date" in clone.run("dvc", "status", *STAGES).stdout
        assert clone.outputs() == project.outputs()
        assert clone.run("git", "status", "--porcelain").stdout == ""
        assert not (clone.root / ".mlflow").exists()
    if kind == "s3":
        holds = [p for p in clone.root.rglob("*") if p.is_file() and keys[1].encode() in p.read_bytes()]
        assert [str(p.relative_to(clone.root)) for p in holds] == [".dvc/config.local"]
    for one in (project, clone):
        (one.root / ".dvc" / "config.local").unlink()


def test_a_clone_that_was_told_of_no_remote_makes_its_own(project, made, tmp_path):
    clone = second_clone(project, tmp_path)
    clone.run("dvc", "repro", "--pull", "ingest")
    assert (clone.root / "data" / "raw.npz").read_bytes() == (project.root / "data" / "raw.npz").read_bytes()


def test_a_reviewer_lists_approves_and_rejects(project, made):
    assert "candidate" in project.run("python", "-m", "flows.review").stdout
    done = project.run("python", "-m", "flows.review", "approve", "1", "--reason", "fine for the pilot", "--by", "ada")
    assert "version 1 is approved by ada: version 1 has the alias certified" in done.stdout
    assert project.query("select alias, version from registered_model_aliases") == [("certified", 1)]
    listed = project.run("python", "-m", "flows.review").stdout
    assert "approved by ada: fine for the pilot (gate passed; given certified; lost candidate;" in listed
    failed = project.run("python", "-m", "flows.review", "reject", "9", "--reason", "x", "--by", "ada", check=False)
    assert failed.returncode == 1
    assert failed.stderr.strip() == "error: smoothed-classifier has no version 9 in the registry"


@pytest.mark.parametrize(
    ("section", "change", "stage", "sentence"),
    [
        ("sanitize", {"sigmoid": 3}, "sanitize", "unknown param sanitize.sigmoid"),
        ("sanitize", {"sigma": 1000.0}, "sanitize", "sigma=1000 is above 4"),
        (
            "denoiser",
            {"source": "data/pretrained/none", "provenance": "disjoint", "origin": "ours"},
            "denoiser",
            "data/pretrained/none does not exist",
        ),
        ("smooth", {"m": 10}, "smooth", "attempt 2 on this raw set"),
        ("gate", {"accuracy": 1.5}, "certify", "param gate.accuracy=1.5"),
        ("train", {"architecture": "transformer"}, "train", "param train.architecture='transformer'"),
    ],
)
def test_a_bad_param_ends_in_one_sentence_and_leaves_the_outputs(project, made, section, change, stage, sentence):
    before, params = project.outputs(), (project.root / "params.yaml").read_text()
    project.set_params({section: change})
    failed = project.run("dvc", "repro", "--single-item", stage, check=False)
    (project.root / "params.yaml").write_text(params)
    assert failed.returncode != 0
    said = [line for line in failed.stderr.splitlines() if line.startswith("error: ")]
    assert len(said) == 1
    assert sentence in said[0]
    assert "Traceback" not in failed.stderr
    assert project.outputs() == before


@pytest.fixture
def own_images(project: Project) -> Iterator[Path]:
    incoming = project.root / "data" / "incoming"
    params = (project.root / "params.yaml").read_text()
    project.set_params({"ingest": {"source": "incoming"}})
    yield incoming
    (project.root / "params.yaml").write_text(params)
    for path in (incoming / "raw", incoming / "raw.npz", incoming / "test.npz"):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def test_a_truncated_image_ends_in_one_sentence_and_leaves_the_outputs(project, made, own_images):
    before = project.outputs()
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8)
    for name in ("a/1.png", "b/1.png"):
        (own_images / "raw" / name).parent.mkdir(parents=True)
        Image.fromarray(pixels).save(own_images / "raw" / name)
    broken = own_images / "raw" / "a" / "1.png"
    broken.write_bytes(broken.read_bytes()[:80])
    failed = project.run("dvc", "repro", "ingest", check=False)
    shutil.rmtree(own_images / "raw")
    assert failed.returncode != 0
    assert "raw/a/1.png cannot be read as an image" in failed.stderr
    assert project.outputs() == before


def test_a_set_with_one_class_ends_in_one_sentence_and_leaves_the_outputs(project, made, own_images):
    before = project.outputs()
    raw = load(project.root / "data" / "raw.npz")
    one_class = raw.take(np.flatnonzero(raw.labels == 3))
    save_npz(one_class, own_images / "raw.npz")
    save_npz(one_class, own_images / "test.npz")
    failed = project.run("dvc", "repro", "ingest", check=False)
    for name in ("raw.npz", "test.npz"):
        (own_images / name).unlink()
    assert failed.returncode != 0
    assert "the raw set has one class ('3')" in failed.stderr
    assert project.outputs() == before


def test_a_new_sigma_killed_half_way_then_the_next_repro_trains_the_missing_draws_only(project, made):
    project.set_params({"sanitize": {"sigma": 0.5}, "smooth": {"batch_of_draws": 1}})
    process = subprocess.Popen(
        ["dvc", "repro"],
        cwd=project.root,
        env=project.env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        time.sleep(0.1)
        ensembles = project.query("select count(*) from tags where key = 'cleanlabel.planned'")[0][0]
        if ensembles == 2 and len(project.draws()) >= 3:
            break
    (lock,) = (path for path in (project.root / ".state" / "locks").iterdir() if project.alive(path.read_text()))
    os.kill(int(lock.read_text()), signal.SIGKILL)
    assert process.wait(60) != 0
    deadline = time.monotonic() + 30
    while project.processes() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert project.processes() == []  # neither a worker nor a server goes on without its flow
    survivors = project.draws()
    assert 3 <= len(survivors) < 12

    rerun = project.run("dvc", "repro").stdout
    # The new sigma touched sanitize and train too, and they were done before the kill; ingest and denoiser never ran.
    assert [s for s in STAGES if f"Running stage '{s}'" in rerun] == ["smooth", "certify"]
    finished = project.draws()
    assert sorted(finished) == list(range(12))
    assert {draw: finished[draw] for draw in survivors} == survivors
    content = json.loads((project.root / "data" / "ensemble" / "ensemble.json").read_text())
    assert (content["sigma"], content["attempts_before"], content["missing_draws"]) == (0.5, 1, [])
    versions = project.query("select name, count(*) from model_versions group by name")
    assert sorted(versions) == [("sanitized-classifier", 2), ("smoothed-classifier", 2)]
    assert "up to date" in project.run("dvc", "status", *STAGES).stdout
