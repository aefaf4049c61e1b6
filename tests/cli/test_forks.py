"""Jobs that a server forks: they do what a job of its own would, end with whoever asked, or are not taken."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipeline import config as settings
from pipeline.cli import forks
from pipeline.cli.forks import forking
from pipeline.storage.layout import Layout
from pipeline.warm import SERVER

pytestmark = pytest.mark.skipif(not forks.SUPPORTED, reason="only Linux forks jobs")

ASK = "import sys; from pipeline.warm import hand_over; hand_over(sys.argv[1:]); print('not taken')"
SLEEPER = """import os, pathlib, time
pathlib.Path("child").write_text(str(os.getpid()))
{action}
"""


@pytest.fixture(scope="module")
def server() -> Iterator[dict[str, str]]:
    """The environment of a server."""
    with forking(1) as environment:
        yield environment


def prepare(**task: Any) -> list[str]:
    """A job: arguments after `lowland`."""
    values = settings.validate(settings.merge(settings.defaults(), {"task": task} if task else {}))
    return ["stage", "prepare", "--config", json.dumps(settings.sections(values, "prepare"))]


def asked(arguments: list[str], environment: dict[str, str], place: Path) -> subprocess.Popen[str]:
    """A process that hands a job over, or says that it was not taken."""
    return subprocess.Popen([sys.executable, "-c", ASK, *arguments], env=environment, cwd=place, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip


def done(arguments: list[str], environment: dict[str, str], place: Path) -> tuple[int, str, str]:
    process = asked(arguments, environment, place)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def test_a_job_is_done_where_it_was_asked_for(server: dict[str, str], tmp_path: Path) -> None:
    code, out, err = done(prepare(), server, tmp_path)
    assert (code, out) == (0, ""), err
    assert Layout(tmp_path).plan.is_file()


def test_an_error_is_the_sentence_and_the_code_that_it_would_be(server: dict[str, str], tmp_path: Path) -> None:
    arguments = prepare(**{"class": "digits", "options": {"noise": "salt"}})
    code, out, err = done(arguments, server, tmp_path)
    cold = subprocess.run([sys.executable, "-m", "pipeline", *arguments], cwd=tmp_path, capture_output=True, text=True)
    assert (code, err) == (2, cold.stderr) and "expected noise" in err and not out


def with_threads(threads: int) -> list[str]:
    values = settings.sections(settings.validate(settings.defaults()), "query")
    return ["stage", "query", "--config", json.dumps({**values, "compute": {**values["compute"], "threads": threads}})]


@pytest.mark.parametrize(("arguments", "changed"), [
    (["suspects", "runs/demo"], {}),
    (with_threads(2), {}),
    (["stage", "query", "--config", "{"], {}),
    (["stage", "query"], {}),
    (prepare(), {"PYTHONPATH": "/elsewhere"}),
    (prepare(), {SERVER: "/nowhere"}),
    (prepare(), {SERVER: ""}),
])  # fmt: skip
def test_a_job_that_the_server_cannot_do_alike_is_not_taken(
    server: dict[str, str], tmp_path: Path, arguments: list[str], changed: dict[str, str]
) -> None:
    root = str(Path(forks.__file__).parents[2])
    environment = server | changed
    if "PYTHONPATH" in changed:  # other code may be there
        environment["PYTHONPATH"] = os.pathsep.join([root, changed["PYTHONPATH"]])
    assert done(arguments, environment, tmp_path) == (0, "not taken\n", "")


def sleeping(place: Path, environment: dict[str, str], action: str) -> tuple[subprocess.Popen[str], psutil.Process]:
    """Who asked, and the child, which is at work."""
    (place / "mine.py").write_text(SLEEPER.format(action=action))
    process = asked(prepare(**{"class": str(place / "mine.py") + ":Mine"}), environment, place)
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


def test_no_job_outlives_its_server(tmp_path: Path) -> None:
    with forking(1) as environment:
        process, child = sleeping(tmp_path, environment, "time.sleep(100)")
        child.parent().kill()
        _, err = process.communicate(timeout=30)
        wait(lambda: gone(child))
        assert process.returncode == 1
        assert done(prepare(), environment, tmp_path) == (0, "not taken\n", ""), err


def test_where_a_server_is_named_none_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SERVER, "")
    with forking(1) as environment:
        assert environment[SERVER] == ""
    monkeypatch.delenv(SERVER)
    monkeypatch.setattr(forks, "SUPPORTED", False)
    with forking(1) as environment:
        assert SERVER not in environment
