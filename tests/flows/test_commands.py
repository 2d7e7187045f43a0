"""Commands that flows run: what they say, how they fail, what is left of them; and the records of what happens."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flows.commands import run
from flows.log import note
from sanitize.errors import Away, InputError


def python(code: str) -> tuple[str, ...]:
    return (sys.executable, "-c", code)


def test_the_lines_come_back_without_progress_bars():
    bar = r"print('smooth:  40%|####      | 8/20 [00:01<00:02,  6.2model/s]')"
    assert run(*python(f"print('one'); {bar}; print(); print('two')")) == ["one", "two"]


def test_settings_are_added_and_what_is_about_the_flow_run_itself_is_not_passed_on(monkeypatch):
    monkeypatch.setenv("PREFECT__FLOW_RUN_ID", "4711")
    monkeypatch.setenv("KEPT", "kept")
    code = "import os; print(os.environ.get('PREFECT__FLOW_RUN_ID'), os.environ['KEPT'], os.environ['ADDED'])"
    assert run(*python(code), settings={"ADDED": "added"}) == ["None kept added"]


@pytest.mark.parametrize(
    ("code", "kind", "sentence"),
    [
        ("import sys; print('much'); sys.exit('error: param m=3 is too small; raise it')", InputError, "param m=3 is"),
        ("import sys; print('a'); print('b'); sys.exit(3)", InputError, "failed: a; b"),
        ("import sys; sys.exit(3)", InputError, "failed: exit status 3"),
        ("import sys; print('error: no server'); sys.exit(75)", Away, "failed: no server"),
        ("print('ERROR: failed to run: python -m x, exited with 75'); exit(255)", Away, "exited with 75"),
    ],
)
def test_a_failure_ends_in_the_commands_own_sentence(code, kind, sentence):
    with pytest.raises(InputError, match=sentence) as failed:
        run(*python(code))
    assert type(failed.value) is kind


def test_a_command_that_is_interrupted_takes_what_it_started_along(tmp_path):
    code = (
        "import subprocess, sys, time, pathlib\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(child.pid))\n"
        "time.sleep(600)"
    )
    # a process that was started in the background may have been told to ignore it
    heard = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    outer = f"{heard}; from flows.commands import run; import sys; run(sys.executable, '-c', {code!r})"
    started = subprocess.Popen(python(outer), cwd=Path(__file__).resolve().parents[2])
    while not (tmp_path / "pid").is_file() or not (tmp_path / "pid").read_text():
        assert started.poll() is None
        time.sleep(0.05)
    grandchild = int((tmp_path / "pid").read_text())
    started.send_signal(signal.SIGINT)
    assert started.wait(30) != 0
    deadline = time.monotonic() + 30
    while running(grandchild) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not running(grandchild)


def running(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def test_records_of_many_processes_are_whole_lines_with_their_ids(tmp_path, monkeypatch):
    monkeypatch.setenv("CLEANLABEL_LOG", str(tmp_path / "log.jsonl"))
    note("ensemble opened", ensemble="abc", m=20)
    code = "from flows.log import note\nfor i in range(50): note('draw recorded', ensemble='abc', draw=i)"
    writers = [subprocess.Popen(python(code), env=os.environ, cwd=Path(__file__).resolve().parents[2]) for _ in "ab"]
    assert [writer.wait() for writer in writers] == [0, 0]
    records = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert len(records) == 101
    assert {"time", "event", "pid", "ensemble", "draw"} <= records[-1].keys()
    assert sorted(r["draw"] for r in records[1:]) == sorted([*range(50)] * 2)
