"""Commands that flows run: what they say, how they fail, what is left of them; and the records of what happens."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cleanlabel.flows.orchestration import leash
from cleanlabel.flows.orchestration.commands import FLOW_RUN, run
from cleanlabel.flows.orchestration.log import note
from cleanlabel.sanitize.errors import InputError, ServiceUnavailable


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
        ("import os; os.kill(os.getpid(), 9)", InputError, "failed: exit status 137"),
        ("import sys; print('error: no server'); sys.exit(75)", ServiceUnavailable, "failed: no server"),
        ("print('ERROR: failed to run: python -m x, exited with 75'); exit(255)", ServiceUnavailable, "exited with 75"),
    ],
)
def test_a_failure_ends_in_the_commands_own_sentence(code, kind, sentence):
    with pytest.raises(InputError, match=sentence) as failed:
        run(*python(code))
    assert type(failed.value) is kind


def test_a_command_that_is_not_there_is_one_sentence():
    with pytest.raises(
        InputError, match="^`no-such-command now` failed: no-such-command cannot be started: No such file"
    ):
        run("no-such-command", "now")


def test_a_command_that_is_interrupted_takes_what_it_started_along(tmp_path):
    code = (
        "import subprocess, sys, time, pathlib\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(child.pid))\n"
        "time.sleep(600)"
    )
    # a process that was started in the background may have been told to ignore it
    heard = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    outer = f"{heard}; import sys; from cleanlabel.flows.orchestration.commands import run; "
    outer += f"run(sys.executable, '-c', {code!r})"
    started = subprocess.Popen(python(outer), cwd=Path(__file__).resolve().parents[2])
    while not (tmp_path / "pid").is_file() or not (tmp_path / "pid").read_text():
        assert started.poll() is None
        time.sleep(0.05)
    grandchild = int((tmp_path / "pid").read_text())
    started.send_signal(signal.SIGINT)
    assert started.wait(30) != 0
    assert_ends(grandchild)


SLEEPER = "import pathlib, os, sys, time; pathlib.Path(sys.argv[1]).write_text(str(os.getpid())); time.sleep(600)"


def at_work(path: Path, *worker: str, settings: dict[str, str] | None = None) -> tuple[int, subprocess.Popen[bytes]]:
    """A process, started by `worker` where that is named, in a command of its own; the command's number first."""
    code = (
        f"from cleanlabel.flows.orchestration.commands import run; run(*{[sys.executable, '-c', SLEEPER, str(path)]!r})"
    )
    environment = os.environ | (settings or {})
    started = subprocess.Popen([*worker, *python(code)], cwd=Path(__file__).resolve().parents[2], env=environment)
    while not path.is_file() or not path.read_text():
        assert started.poll() is None
        time.sleep(0.05)
    return int(path.read_text()), started


def assert_ends(pid: int) -> None:
    deadline = time.monotonic() + 30
    while running(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not running(pid)


def test_a_command_ends_even_when_the_process_that_runs_it_is_killed(tmp_path):
    command, started = at_work(tmp_path / "pid")
    started.kill()
    started.wait()
    assert_ends(command)


def test_a_deployed_run_ends_with_its_worker_and_one_started_by_hand_goes_on(tmp_path):
    worker = python("import subprocess, sys; subprocess.run(sys.argv[1:])")
    by_hand, first = at_work(tmp_path / "by hand", *worker)
    deployed, second = at_work(tmp_path / "deployed", *worker, settings={FLOW_RUN: "4711"})
    for killed in (first, second):
        killed.kill()
        killed.wait()
    assert_ends(deployed)
    assert running(by_hand)
    os.kill(by_hand, signal.SIGKILL)


def test_a_command_that_does_not_heed_sigterm_is_killed_after_a_while(tmp_path, monkeypatch):
    monkeypatch.setattr(leash, "GRACE_SECONDS", 0.5)
    stubborn = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEPER}"
    path = tmp_path / "pid"
    leader = os.fork()
    if leader == 0:
        os.setsid()
        monkeypatch.setattr(sys, "argv", ["leash", str(os.getppid()), sys.executable, "-c", stubborn, str(path)])
        leash.main()
        os._exit(0)
    while not path.is_file() or not path.read_text():
        time.sleep(0.05)
    os.kill(leader, signal.SIGTERM)
    assert os.waitstatus_to_exitcode(os.waitpid(leader, 0)[1]) == -signal.SIGKILL
    assert_ends(int(path.read_text()))


def running(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def test_records_of_many_processes_are_whole_lines_with_their_ids(tmp_path, monkeypatch):
    monkeypatch.setenv("CLEANLABEL_LOG", str(tmp_path / "log.jsonl"))
    note("ensemble opened", ensemble="abc", m=20)
    code = "from cleanlabel.flows.orchestration.log import note\n"
    code += "for i in range(50): note('draw recorded', ensemble='abc', draw=i)"
    writers = [subprocess.Popen(python(code), env=os.environ, cwd=Path(__file__).resolve().parents[2]) for _ in "ab"]
    assert [writer.wait() for writer in writers] == [0, 0]
    records = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert len(records) == 101
    assert {"time", "event", "pid", "ensemble", "draw"} <= records[-1].keys()
    assert sorted(r["draw"] for r in records[1:]) == sorted([*range(50)] * 2)
