"""Jobs that a server forks: they do what a job of its own would, end with whoever asked, or are not taken."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipeline import config as settings
from pipeline.cli import forks
from pipeline.cli.forks import forking
from pipeline.storage.layout import Layout
from pipeline.warm import SERVER
from pipeline.warm import code as code_of

pytestmark = pytest.mark.skipif(not forks.supported(), reason="only Linux forks jobs")

TINY = {"train_size": 40, "validation_size": 10, "query_size": 5, "epochs": 1, "hidden": [8]}
ASK = """import signal, sys
from pipeline.warm import hand_over
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are begun with it ignored
hand_over(sys.argv[1:])
print('not taken')"""
SLEEPER = """import os, pathlib, time
pathlib.Path("child").write_text(str(os.getpid()))
{action}
"""


@pytest.fixture(scope="module")
def server() -> Iterator[dict[str, str]]:
    """The environment of a server."""
    with forking(1) as environment:
        yield environment


def job(stage: str = "train", **task: Any) -> list[str]:
    """A job: arguments after `lowland`."""
    values = settings.validate(settings.merge(settings.defaults(), {"task": {"options": TINY} | task}))
    return ["stage", stage, "--config", json.dumps(settings.sections(values, stage))]


@cache
def template() -> tempfile.TemporaryDirectory[str]:
    """A run that is planned."""
    directory = tempfile.TemporaryDirectory()
    command = [sys.executable, "-m", "pipeline", *job("prepare")]
    subprocess.run(command, cwd=directory.name, check=True, capture_output=True)
    return directory


def planned(place: Path) -> Path:
    """The same here."""
    shutil.copytree(template().name, place, dirs_exist_ok=True)
    return place


def asked(arguments: list[str], environment: dict[str, str], place: Path) -> subprocess.Popen[str]:
    """A process that hands a job over, or says that it was not taken."""
    return subprocess.Popen([sys.executable, "-c", ASK, *arguments], env=environment, cwd=place, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip


def done(arguments: list[str], environment: dict[str, str], place: Path) -> tuple[int, str, str]:
    process = asked(arguments, environment, place)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def test_a_job_has_the_bytes_of_one_that_starts_by_itself(server: dict[str, str], tmp_path: Path) -> None:
    place = planned(tmp_path)
    weights = Layout(place).checkpoint("trained")
    code, out, err = done(job(), server, place)
    assert (code, out) == (0, ""), err
    forked = weights.read_bytes()
    weights.unlink()
    assert done(job(), server | {SERVER: ""}, place)[1] == "not taken\n"
    subprocess.run([sys.executable, "-m", "pipeline", *job()], cwd=place, check=True, capture_output=True)
    assert weights.read_bytes() == forked


def test_an_error_is_the_sentence_and_the_code_that_it_would_be(server: dict[str, str], tmp_path: Path) -> None:
    arguments = job(options={"noise": "salt"})
    code, out, err = done(arguments, server, tmp_path)
    cold = subprocess.run([sys.executable, "-m", "pipeline", *arguments], cwd=tmp_path, capture_output=True, text=True)
    assert (code, err) == (2, cold.stderr) and "expected" in err and not out


ENDING = """
import atexit, pathlib, threading, time
from pipeline.tasks.digits import Digits

class Torn:
    def __del__(self, touch=pathlib.Path("torn.txt").touch):
        touch()

torn, opened = Torn(), []  # go when the interpreter is taken apart

class Mine(Digits):
    def train(self, model):
        super().train(model)
        opened.append(open("open.txt", "w"))
        opened[0].write("not flushed")
        atexit.register(pathlib.Path("registered.txt").write_text, "asked for")
        threading.Thread(target=lambda: (time.sleep(1), pathlib.Path("thread.txt").write_text("late"))).start()
"""


@pytest.mark.parametrize("forked", [True, False])
def test_a_job_that_leaves_things_to_the_end_has_them_done_and_is_not_taken_apart(
    server: dict[str, str], tmp_path: Path, forked: bool
) -> None:
    (planned(tmp_path) / "mine.py").write_text(ENDING)
    arguments = job(**{"class": f"{tmp_path}/mine.py:Mine"})
    if forked:
        code, out, err = done(arguments, server, tmp_path)
        assert (code, out) == (0, ""), err
    else:
        subprocess.run([sys.executable, "-m", "pipeline", *arguments], cwd=tmp_path, check=True, capture_output=True)
    found = {file.stem: file.read_text() for file in tmp_path.glob("*.txt")}
    assert found == {"open": "not flushed", "registered": "asked for", "thread": "late"}
    subprocess.run(
        [sys.executable, "-c", "import mine"],
        cwd=tmp_path,
        check=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert (tmp_path / "torn.txt").exists()


def test_a_job_whose_words_have_no_room_ends_as_one_that_starts_by_itself(
    server: dict[str, str], tmp_path: Path
) -> None:
    (planned(tmp_path) / "mine.py").write_text("print('words')\nraise SystemExit(0)")
    arguments = job(**{"class": f"{tmp_path}/mine.py:Mine"})
    ask = [sys.executable, "-c", ASK, *arguments], [sys.executable, "-m", "pipeline", *arguments]
    own = {name: value for name, value in server.items() if name != "PYTHONUNBUFFERED"}
    with Path("/dev/full").open("w") as full:
        codes = [subprocess.run(each, cwd=tmp_path, env=own, stdout=full, stderr=subprocess.DEVNULL, timeout=60).returncode
                 for each in ask]  # fmt: skip
    assert codes[0] == codes[1] != 0


def with_threads(threads: int) -> list[str]:
    values = settings.sections(settings.validate(settings.defaults()), "query")
    return ["stage", "query", "--config", json.dumps({**values, "compute": {**values["compute"], "threads": threads}})]


@pytest.mark.parametrize(("arguments", "changed"), [
    (["suspects", "runs/demo"], {}),
    (with_threads(2), {}),
    (["stage", "query", "--config", "{"], {}),
    (["stage", "query"], {}),
    (job("prepare"), {}),
    (job(), {"PYTHONPATH": "/elsewhere"}),
    (job(), {"SLURM_JOB_ID": "7"}),
    (job(), {SERVER: "nowhere secret"}),
    (job(), {SERVER: ""}),
])  # fmt: skip
def test_a_job_that_the_server_cannot_do_alike_is_not_taken(
    server: dict[str, str], tmp_path: Path, arguments: list[str], changed: dict[str, str]
) -> None:
    root = str(Path(forks.__file__).parents[2])
    environment = server | changed
    if "PYTHONPATH" in changed:  # other code may be there
        environment["PYTHONPATH"] = os.pathsep.join([root, changed["PYTHONPATH"]])
    assert done(arguments, environment, tmp_path) == (0, "not taken\n", "")


def test_a_job_without_the_secret_is_not_taken(server: dict[str, str], tmp_path: Path) -> None:
    name = server[SERVER].partition(" ")[0]
    for guess in (name, f"{name} guess"):
        assert done(job(), server | {SERVER: guess}, tmp_path) == (0, "not taken\n", "")


def test_code_that_was_edited_since_it_was_imported_is_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forks, "import_stages", lambda: None)
    monkeypatch.setenv(SERVER, "name secret")
    with socket.socket(socket.AF_UNIX) as listening, socket.socket(socket.AF_UNIX) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        server = forks.Server(listening, 1)
        asked = {"secret": "secret", "code": code_of(), "arguments": job()}
        assert server._takes(asked) and server._takes(asked)
        monkeypatch.setattr(forks, "stamps", lambda: {"a.py": (1, 2)})
        assert not server._takes(asked)
        server._waiting.close()


def sleeping(place: Path, environment: dict[str, str], action: str) -> tuple[subprocess.Popen[str], psutil.Process]:
    """Who asked, and the child, which is at work."""
    (planned(place) / "mine.py").write_text(SLEEPER.format(action=action))
    process = asked(job(**{"class": str(place / "mine.py") + ":Mine"}), environment, place)
    wait(lambda: (place / "child").is_file() and (place / "child").read_text() != "")
    return process, psutil.Process(int((place / "child").read_text()))


def wait(come: Callable[[], bool]) -> None:
    for _ in range(600):
        if come():
            return
        time.sleep(0.1)
    raise AssertionError("it did not come")


def gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_job_ends_with_whoever_asked(server: dict[str, str], tmp_path: Path, number: signal.Signals) -> None:
    process, child = sleeping(tmp_path, server, "time.sleep(100)")
    assert child.pid != process.pid and child.cwd() == str(tmp_path)
    process.send_signal(number)
    process.communicate(timeout=30)
    wait(lambda: gone(child))
    assert process.returncode == -number


def test_whoever_asked_ends_as_the_job(server: dict[str, str], tmp_path: Path) -> None:
    process, child = sleeping(tmp_path, server, "time.sleep(1)\nos.kill(os.getpid(), 9)")
    process.communicate(timeout=30)
    assert process.returncode == -signal.SIGKILL and gone(child)


def test_a_job_does_not_wait_for_those_that_were_forked_after_it(server: dict[str, str], tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    first, _ = sleeping(tmp_path / "first", server, "time.sleep(3)")
    second, child = sleeping(tmp_path / "second", server, "time.sleep(100)")
    first.communicate(timeout=30)
    assert not gone(child)
    second.kill()
    second.communicate(timeout=30)


def test_a_job_and_whoever_asked_may_go_at_once(tmp_path: Path) -> None:
    with forking(1) as environment:
        process, child = sleeping(tmp_path, environment, "time.sleep(100)")
        server = child.parent()
        server.suspend()
        child.kill()
        wait(lambda: gone(child))  # it is to be heard of first
        process.kill()
        process.communicate(timeout=30)
        server.resume()
        again, other = sleeping_again(tmp_path, environment)
        assert other.parent() == server  # which has outlived it
        again.kill()
        again.communicate(timeout=30)


def sleeping_again(place: Path, environment: dict[str, str]) -> tuple[subprocess.Popen[str], psutil.Process]:
    (place / "child").unlink()
    return sleeping(place, environment, "time.sleep(100)")


def test_no_job_outlives_its_server(tmp_path: Path) -> None:
    with forking(1) as environment:
        process, child = sleeping(tmp_path, environment, "time.sleep(100)")
        child.parent().kill()
        _, err = process.communicate(timeout=30)
        wait(lambda: gone(child))
        assert process.returncode == 1
        assert done(job(), environment, tmp_path) == (0, "not taken\n", ""), err


def test_where_a_server_is_named_none_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SERVER, "")
    with forking(1) as environment:
        assert environment[SERVER] == ""
    monkeypatch.delenv(SERVER)
    monkeypatch.delattr(os, "pidfd_open")
    with forking(1) as environment:
        assert SERVER not in environment
