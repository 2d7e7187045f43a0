"""The seal: whatever a version has in a real store, changed one thing at a time, is named by the audit."""

import json
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mlflow
import pytest
from filled import filled
from registered import Registered, copy_of, registered, set_params, the_version

from cleanlabel import loading
from cleanlabel.flows.artifacts import CERTIFICATE, CURVE, GATE, PAGE
from cleanlabel.flows.certificate.sealed import check_seal
from cleanlabel.flows.ensemble.seal import contents, differences, files_of, words_of, write_seal
from cleanlabel.flows.store.client import TAG, create_run, finish
from cleanlabel.flows.store.errors import translate_store_errors
from cleanlabel.flows.store.registry import SMOOTHED, get_version
from cleanlabel.sanitize.errors import InputError

TIMES = "MLflow keeps it itself, and it changes with every write"
ELSEWHERE = "an address: a project that moves changes it, and whether it is the run's own is checked"
CHART = "the last value of a draw's metric is sealed, not the points of its chart"
NOT_SEALED = {
    ("runs", "start_time"): TIMES,
    ("runs", "end_time"): TIMES,
    ("runs", "deleted_time"): TIMES,
    ("runs", "artifact_uri"): ELSEWHERE,
    ("runs", "source_type"): "MLflow shows the tag mlflow.source.type in its place",
    ("runs", "source_name"): "MLflow shows the tag mlflow.source.name in its place",
    ("runs", "source_version"): "MLflow shows the tag mlflow.source.git.commit in its place",
    ("runs", "entry_point_name"): "MLflow shows the tag mlflow.project.entryPoint in its place",
    ("metrics", "timestamp"): TIMES,
    ("latest_metrics", "timestamp"): TIMES,
    ("logged_models", "creation_timestamp_ms"): TIMES,
    ("logged_models", "last_updated_timestamp_ms"): TIMES,
    ("logged_models", "artifact_location"): ELSEWHERE,
    ("model_versions", "creation_time"): TIMES,
    ("model_versions", "last_updated_time"): TIMES,
    **dict.fromkeys((("metrics", name) for name in ("key", "value", "step", "is_nan")), CHART),
    ("inputs", "source_type"): "MLflow joins a data set to its run without reading it",
    ("inputs", "step"): "of a data set, MLflow shows no step",
}
"""Columns that may change without a word, each with the reason why."""
KEYS = {
    "runs": {"run_uuid", "experiment_id"},
    "logged_models": {"model_id", "experiment_id"},
    "model_versions": {"name", "version", "workspace"},
    "model_version_tags": {"name", "version", "workspace"},
    "logged_model_tags": {"model_id", "experiment_id"},
    "logged_model_params": {"model_id", "experiment_id"},
    "inputs": {"input_uuid", "source_id", "destination_id"},
    "datasets": {"dataset_uuid", "experiment_id"},
    "input_tags": {"input_uuid"},
}
"""Columns that say which row it is. A row that moves away is a row that is gone, which is tried for every row."""


@contextmanager
def database() -> Iterator[sqlite3.Connection]:
    """What somebody with access to the database can do, without a check by MLflow."""
    connection = sqlite3.connect(os.environ["MLFLOW_TRACKING_URI"].removeprefix("sqlite:///"), isolation_level=None)
    try:
        connection.execute("pragma ignore_check_constraints = on")
        yield connection
    finally:
        connection.close()


@pytest.fixture(scope="module")
def sealed(snapshot: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registered]:
    """Version 1, certified with card and page, in a store of this module's own: each test puts back what it changes."""
    root = tmp_path_factory.mktemp("sealed")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{root}/.mlflow/mlflow.db")
        version = the_version(copy_of(snapshot, root), 1)
        set_params(gate={"accuracy": 0.5, "certified_accuracy": [{"radius": 0.0, "at_least": 0.2}], "replay": 0})
        version.certify_whole()
        yield the_version(version.store, 1)


def found(version: Registered) -> str:
    """What the audit's check of the seal finds; empty if all is as it was sealed."""
    check = check_seal(version.store, get_version(version.store, SMOOTHED, 1), whole=True)
    return "" if check.passed else check.found


def words_differ(version: Registered, before: dict[str, str]) -> list[str]:
    """What differs in the words of the version, or the sentence that says why they cannot be read."""
    try:
        with translate_store_errors():
            return differences(before, words_of(version.store, get_version(version.store, SMOOTHED, 1)))
    except InputError as error:
        return [str(error)]


def rows_of(version: Registered) -> dict[str, list[tuple[int, dict]]]:
    """Every row of the database that is about the version, its runs and its logged model, by table.

    Found by what the rows hold: any row that names the version, one of its runs or models, or a row that these name.
    """
    run_ids = {version.version.run_id, *(version.run_of(draw) for draw in range(version.ensemble.m))}
    with database() as connection:
        connection.row_factory = sqlite3.Row
        tables = [name for (name,) in connection.execute("select name from sqlite_master where type = 'table'")]
        everything = {
            table: [
                (row["number_of_row"], {name: row[name] for name in row.keys()[1:]})
                for row in connection.execute(f'select rowid as number_of_row, * from "{table}"')
            ]
            for table in tables
        }
    models = {row["model_id"] for _, row in everything["logged_models"] if row["source_run_id"] in run_ids}
    links = [row for _, row in everything["inputs"] if run_ids & {row["destination_id"], row["source_id"]}]
    mine = run_ids | models | {row["input_uuid"] for row in links}
    data = {row["source_id"] for row in links} - run_ids
    kept: dict[str, list[tuple[int, dict]]] = {}
    for table, rows in everything.items():
        for rowid, row in rows:
            values = {value for value in row.values() if isinstance(value, str)}
            of_version = row.get("name") == SMOOTHED and row.get("version") == 1
            if (mine & values) or of_version or row.get("dataset_uuid") in data:
                kept.setdefault(table, []).append((rowid, row))
    return kept


def sample(rows: list[tuple[int, dict]], version: Registered) -> list[tuple[int, dict]]:
    """The rows of the parent, the version, the logged model and draw 3: the other draws are like it."""
    others = {version.run_of(draw) for draw in range(version.ensemble.m) if draw != 3}
    return [(rowid, row) for rowid, row in rows if not others & {v for v in row.values() if isinstance(v, str)}]


OTHERS = {
    "status": {"runs": "FAILED", "model_versions": "FAILED_REGISTRATION", "logged_models": 3},
    "lifecycle_stage": "deleted",
    "current_stage": "Production",
}
"""Other values of columns in which MLflow knows only a few."""


def altered(table: str, column: str, value: object) -> object:
    other = OTHERS.get(column)
    if other is not None:
        return other[table] if isinstance(other, dict) else other
    return value + 1 if isinstance(value, int | float) else f"{value or ''}x"


def test_every_cell_of_the_database_is_sealed(sealed):
    before = words_of(sealed.store, get_version(sealed.store, SMOOTHED, 1))
    unnamed, tables = [], set()
    with database() as connection:
        for table, rows in filled(rows_of(sealed).items()):
            for rowid, row in filled(sample(rows, sealed)):
                for column, value in filled(row.items()):
                    if column in KEYS.get(table, {"run_uuid"}) or (table, column) in NOT_SEALED:
                        continue
                    change = f'update "{table}" set "{column}" = ? where rowid = ?'
                    connection.execute(change, (altered(table, column, value), rowid))
                    said = words_differ(sealed, before)
                    if not said and not sealed.failures():  # the seal's tag and the aliases: by other checks
                        unnamed.append(f"{table}.{column}: {row}")
                    if said and table not in tables:  # and the audit itself says so, in the same words
                        tables.add(table)
                        assert set(said) & set(found(sealed).split("; ")), (table, column)
                    connection.execute(change, (value, rowid))
    assert unnamed == []
    assert tables >= {"runs", "tags", "params", "latest_metrics", "datasets", "inputs", "input_tags", "model_versions"}
    assert tables >= {"model_version_tags", "logged_models", "logged_model_params", "logged_model_tags"}
    assert found(sealed) == ""


def test_a_row_that_is_gone_or_added_is_named(sealed):
    before = words_of(sealed.store, get_version(sealed.store, SMOOTHED, 1))
    unnamed = []
    with database() as connection:
        for table, rows in rows_of(sealed).items():
            if table in ("metrics", "inputs"):  # the points of a chart; a link is tried with each of its columns
                continue
            for rowid, row in sample(rows, sealed):
                columns, marks = ", ".join(f'"{name}"' for name in row), ", ".join("?" * len(row))
                back = f'insert into "{table}" (rowid, {columns}) values (?, {marks})'
                connection.execute(f'delete from "{table}" where rowid = ?', (rowid,))
                if not words_differ(sealed, before) and not sealed.failures():
                    unnamed.append(f"without {row} in {table}")
                connection.execute(back, (rowid, *row.values()))
                name = next((column for column in ("key", "param_key", "tag_key") if column in row), None)
                if name is None:
                    continue
                more = row | {name: f"{row[name]}.more"}
                added = connection.execute(
                    f'insert into "{table}" ({columns}) values ({marks})', tuple(more.values())
                ).lastrowid
                if not any(words.endswith("was added") for words in words_differ(sealed, before)):
                    unnamed.append(f"with {more} in {table}")
                connection.execute(f'delete from "{table}" where rowid = ?', (added,))
    assert unnamed == []
    assert found(sealed) == ""


def roots_of(version: Registered) -> list[Path]:
    """Every folder of artifacts of the version: of its run, of its draws, of its logged model."""
    models = version.store.client.search_logged_models(
        [version.store.experiment_id], f"source_run_id = '{version.version.run_id}'"
    )
    runs = [version.version.run_id, *(version.run_of(draw) for draw in range(version.ensemble.m))]
    places = Path(".mlflow/artifacts")
    return [
        *(places / run / "artifacts" for run in runs),
        *(places / "models" / m.model_id / "artifacts" for m in models),
    ]


def test_every_byte_of_every_file_is_sealed(sealed):
    before = files_of(sealed.store, get_version(sealed.store, SMOOTHED, 1))
    unnamed, tried = [], 0
    for root in roots_of(sealed):
        for path in sorted(path for path in root.rglob("*") if path.is_file()):
            if path.name in ("seal.json", "certificate.json"):  # each of the two names the other; see below
                continue
            tried += 1
            honest = path.read_bytes()
            path.write_bytes(honest[:-1] + bytes([honest[-1] ^ 1]) if honest else b"x")
            now = files_of(sealed.store, get_version(sealed.store, SMOOTHED, 1))
            path.write_bytes(honest)
            (words,) = differences(before, now) or [""]
            if not words.endswith("was changed") or path.name not in words:
                unnamed.append(str(path))
    assert unnamed == []
    assert tried == len([key for key in before if ":file " in key or key.startswith("file:")]) > 200


def test_a_file_that_is_added_gone_or_a_link_is_named(sealed, tmp_path):
    for root in roots_of(sealed)[:3]:
        added = root / "seal.json"  # its name is no excuse anywhere but beside the model
        added.write_text("{}")
        assert "file seal.json was added" in found(sealed)
        added.unlink()
    model = roots_of(sealed)[0] / "ensemble"
    for name in ("sitecustomize.py", "code/torch.py", "code/cleanlabel/__pycache__/served.cpython-311.pyc"):
        (model / name).parent.mkdir(exist_ok=True)
        (model / name).write_text("")
        assert found(sealed) == f"file {name} was added"
        (model / name).unlink()
    served = model / "code/cleanlabel/served.py"
    honest = served.read_bytes()
    served.unlink()
    assert found(sealed) == "file code/cleanlabel/served.py is gone"
    (tmp_path / "served.py").write_bytes(honest)
    served.symlink_to(tmp_path / "served.py")
    assert "served.py is not a plain file" in found(sealed)
    served.unlink()
    served.write_bytes(honest)
    assert found(sealed) == ""


def test_the_list_itself_and_the_roots_that_name_it_are_sealed(sealed):
    path = roots_of(sealed)[0] / "ensemble" / "seal.json"
    honest = path.read_bytes()
    content = json.loads(honest)
    for key in ("file:MLmodel", "version:description", "draw 3:metric test_accuracy"):
        path.write_text(json.dumps(content | {"entries": content["entries"] | {key: "0" * 64}}))
        assert f"{key.replace(':', ' ')} was changed" in found(sealed)
    for damage in (b"", b"[]", b"{}", b'{"format": "another", "entries": {}}'):
        path.write_bytes(damage)
        assert found(sealed) == "the list of digests of version 1 is damaged; restore the store"
    path.unlink()
    assert found(sealed).endswith("has no readable artifact ensemble/seal.json")
    path.write_bytes(honest)
    assert found(sealed) == ""


def test_the_list_has_the_form_that_a_loader_reads(sealed):
    directory = roots_of(sealed)[0] / "ensemble"
    entries = loading.read_seal(directory)
    assert {key: digest for key, digest in entries.items() if key.startswith("file:")} == loading.digests_of(directory)
    certificate = json.loads(CERTIFICATE.read_text())
    assert certificate["seal"] == loading.root_of(entries)
    assert certificate == json.loads((directory / "certificate/certificate.json").read_text())


def test_the_audit_names_what_the_issue_saw_pass(sealed):
    root = roots_of(sealed)[0]
    assert sealed.failures() == []
    for path, line in (
        ("ensemble/code/cleanlabel/served.py", "\nprint('reached')\n"),
        ("ensemble/MLmodel", "\n"),
        ("ensemble/certificate/index.html", "<!-- -->"),
    ):
        honest = (root / path).read_bytes()
        (root / path).write_bytes(honest + line.encode())
        assert sealed.failures()[0] == f"seal: file {path.removeprefix('ensemble/')} was changed"
        (root / path).write_bytes(honest)
    with database() as connection:
        for cell, where, value, words in (
            (
                "latest_metrics set value",
                ("run_uuid", sealed.run_of(3)),
                0.999,
                "draw 3 metric test_accuracy was changed",
            ),
            ("model_version_tags set value", ("key", f"{TAG}gate"), "failed", f"version tag {TAG}gate was changed"),
            ("model_versions set description", ("version", 1), "R = 4", "version description was changed"),
        ):
            table, _, column = cell.split()
            rows = connection.execute(f"select rowid, {column} from {table} where {where[0]} = ?", where[1:]).fetchall()
            connection.execute(f"update {cell} = ? where {where[0]} = ?", (value, where[1]))
            assert words in sealed.failures()[0]
            for rowid, before in rows:
                connection.execute(f"update {cell} = ? where rowid = ?", (before, rowid))
    assert sealed.failures() == []


def test_figures_edited_in_the_checkouts_own_reports_are_named(sealed):
    vote = f"{json.loads(CERTIFICATE.read_text())['vote_accuracy']:.3f}"
    for path, was, now in ((PAGE, vote, "0.999"), (CURVE, "0.0,0.", "0.0,1."), (GATE, "true", "false")):
        honest = path.read_bytes()
        assert was in path.read_text()
        path.write_text(path.read_text().replace(was, now))
        assert sealed.failures() == [f"reports: {path} is not the one that is attached to the version"]
        path.write_bytes(honest)
    assert sealed.failures() == []


def test_certifying_twice_gives_one_root(sealed):
    first, page = CERTIFICATE.read_bytes(), PAGE.read_bytes()
    sealed.certify_whole()
    assert (CERTIFICATE.read_bytes(), PAGE.read_bytes()) == (first, page)
    assert sealed.failures() == []


def test_a_version_that_changed_since_it_was_registered_is_not_certified(version):
    served = roots_of(version)[0] / "ensemble/code/cleanlabel/served.py"
    served.write_text(served.read_text() + "\n")
    with pytest.raises(
        InputError, match="is not what was registered: file code/cleanlabel/served.py was changed; rest"
    ):
        version.certify()
    assert version.failures()[0] == "seal: file code/cleanlabel/served.py was changed"


def test_loading_from_another_folder_or_another_run_is_named(version, tmp_path):
    """The address that a loader follows is no word of the run: MLflow reads `storage_location` where it has one."""
    model = roots_of(version)[0] / "ensemble"
    shutil.copytree(model, tmp_path / "other" / "ensemble")
    for column in ("storage_location", "source"):
        with database() as connection:
            ((before,),) = connection.execute(f"select {column} from model_versions where version = 1")
            change = f"update model_versions set {column} = ? where version = 1"
            connection.execute(change, (f"file://{tmp_path}/other/ensemble",))
            assert "/other/ensemble, and its run's model is " in found(version)
            connection.execute(change, (before,))
    assert found(version) == ""


def test_a_run_that_calls_itself_a_child_of_the_ensemble_is_named(version):
    extra = create_run(version.store, "draw 3, better", {"kind": "note"}, {}, parent_id=version.version.run_id)
    finish(version.store, extra, "FAILED")  # no draw: it is not counted, but whoever opens the ensemble sees it
    assert f"child run {extra} name was added" in found(version)


def test_points_of_the_ensembles_own_metrics_are_sealed(version):
    store, run_id = version.store, version.version.run_id
    for step, value in enumerate((1.0, 2.0, 3.0)):
        store.client.log_metric(run_id, "system/load", value, step=step)
    before = words_of(store, version.version)
    with database() as connection:
        connection.execute("update metrics set value = 9 where key = 'system/load' and step = 1")
    assert differences(before, words_of(store, version.version)) == ["run metric system/load was changed"]


def test_a_store_resealed_as_a_whole_fails_at_git(version):
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.org")
    for command in (("init", "-q"), ("add", str(CERTIFICATE)), (*identity, "commit", "-qm", "certified")):
        subprocess.run(["git", *command], check=True)
    assert version.failures() == []
    served = roots_of(version)[0] / "ensemble/code/cleanlabel/served.py"
    served.write_text(served.read_text() + "\n")
    write_seal(version.store, version.version)  # list and tag follow, as the attacker makes them
    assert "the certificate's field seal is" in version.failures()[0]
    certified = version.certify()  # and so does the next certification, which finds a store that agrees with itself
    assert version.failures()[0].startswith("seal: git holds another seal for this ensemble")
    verdict = version.gate(certified)
    assert verdict.reasons == "audit: failed: seal; see flows.audit"


def test_a_certificate_in_git_of_the_same_plan_with_other_entropy_is_another_ensembles(version):
    of_a_clones_origin = json.loads(CERTIFICATE.read_text()) | {
        "entropy_commitment": "0" * 64,
        "seal": "1" * 64,
        "registered_seal": "2" * 64,
    }
    kept = CERTIFICATE.read_bytes()
    CERTIFICATE.write_text(json.dumps(of_a_clones_origin))
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.org")
    for command in (("init", "-q"), ("add", str(CERTIFICATE)), (*identity, "commit", "-qm", "certified elsewhere")):
        subprocess.run(["git", *command], check=True)
    CERTIFICATE.write_bytes(kept)
    assert version.gate().passed
    assert version.failures() == []


def test_a_version_registered_twice_stays_as_it_was_and_one_that_changed_is_sealed_again(version, capsys):
    before = contents(version.store, version.version)
    assert registered(version.store, version.ensemble).number == 1
    assert differences(before, contents(version.store, version.version)) == []
    assert capsys.readouterr().out.endswith("version 1, as it was registered\n")
    (roots_of(version)[0] / "ensemble" / "MLmodel").unlink()
    registered(version.store, version.ensemble)
    assert "is sealed again, for file MLmodel is gone; certify it again" in capsys.readouterr().out
    version.certify()
    assert version.failures() == []


def test_a_version_from_before_seals_is_sealed_when_it_is_certified(version):
    version.store.client.delete_model_version_tag(SMOOTHED, "1", f"{TAG}seal")
    (roots_of(version)[0] / "ensemble" / "seal.json").unlink()
    assert "has no readable artifact ensemble/seal.json" in version.failures()[0]
    set_params(gate={"accuracy": 0.5, "certified_accuracy": [{"radius": 0.0, "at_least": 0.2}], "replay": 0})
    version.certify_whole()
    assert version.failures() == []


def test_a_model_loaded_in_place_keeps_its_seal(version):
    mlflow.pyfunc.load_model(f"models:/{SMOOTHED}/1")
    meta = roots_of(version)[0] / "ensemble" / "registered_model_meta"
    if meta.is_file():  # MLflow writes it where the store is on the same machine
        assert found(version) == ""
        meta.write_text(meta.read_text().replace("'1'", "'2'"))
        assert found(version) == "file registered_model_meta was added"


def test_figures_of_an_earlier_certification_do_not_stay(version):
    version.certify(radii=[0.0, 0.1])
    assert f"{TAG}certified_accuracy_r0_25" not in version.tags()
    assert f"{TAG}certified_accuracy_r0_10" in version.tags()
    assert version.failures() == []


def test_a_draw_is_lost_as_a_whole_or_it_was_edited(version):
    """A draw may get lost and is then counted for nobody; one that lost only a word was edited."""
    run = version.run_of(5)
    with database() as connection:
        connection.execute("delete from params where run_uuid = ? and key = 'm'", (run,))
    with pytest.raises(InputError, match="has the param m=None where its plan says"):
        version.certify()
    assert found(version) == "draw 5 param m is gone"
