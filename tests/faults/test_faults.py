"""What machines do: nothing is lost, nothing is counted twice, and the next `lowland run` comes to the same result."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from pipeline.cli.locks import held
from tests.faults.conftest import Mount
from tests.workflow.runs import COMMAND, Project, answer_of, ask, environment, lowland, new_project, planned, succeed
from tests.workflow.same import differences, faults

pytestmark = pytest.mark.workflow

DAY_S = 86_400


def begun(project: Project, directory: Path) -> Path:
    """A copy of the project's run that has come as far as the gradients."""
    run = project.copy_of_run(directory)
    results = run / "results"
    for name in ("curvature", "vectors", "index", "scores", "query", "report", "evaluation"):
        shutil.rmtree(results / name)
    return run


def started(run: Path, *arguments: str) -> subprocess.Popen[str]:
    """A run at work, in a group of its own."""
    command = [*COMMAND, "run", "--workdir", str(run), "--cores", "1", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(),
                            start_new_session=True)  # fmt: skip


def wait_until_at_work(run: Path) -> None:
    """Until a lock is there."""
    deadline = time.monotonic() + 120
    while not list((run / ".snakemake" / "locks").glob("*")):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def check_finished(project: Project, run: Path) -> None:
    done = lowland("run", "--workdir", run, "--cores", 2)
    assert done.returncode == 0, done.stderr
    assert differences(project.run, run) == [] and faults(run) == []


# -- locks -----------------------------------------------------------------------------------------


def test_a_lock_goes_when_its_owner_is_dead_and_not_before(project: Project, tmp_path: Path) -> None:
    run = begun(project, tmp_path)
    process = started(run)
    wait_until_at_work(run)
    busy = f"expected {run} to be free, got process {process.pid} on "
    for option in ((), ("-n",), ("--unlock",)):
        complaint = answer_of(lowland("run", "--workdir", run, *option)).complaint
        assert complaint.startswith(busy) and "which is at work on it" in complaint
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    done = lowland("run", "--workdir", run, "--cores", 2)
    assert re.search(rf"process {process.pid} on .* is gone, and so are its jobs: its lock was removed", done.stderr)
    assert done.returncode == 0 and differences(project.run, run) == [] and faults(run) == []


def test_snakemake_outlives_the_command_and_is_named(project: Project, tmp_path: Path) -> None:
    run = begun(project, tmp_path)
    process = started(run)
    wait_until_at_work(run)
    for child in psutil.Process(process.pid).children(recursive=True):
        child.suspend()  # it would end by itself when nobody reads what it says
    process.kill()  # the command alone
    complaint = answer_of(lowland("run", "--workdir", run)).complaint
    assert re.search(r"got process [\d, ]+ on \S+, still at work on it", complaint)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    check_finished(project, run)


def test_a_lock_of_an_unknown_owner_is_explained_and_removed_by_option(project: Project, tmp_path: Path) -> None:
    run = begun(project, tmp_path)
    (run / ".snakemake/locks").mkdir(parents=True, exist_ok=True)
    (run / ".snakemake/locks/0.output.lock").write_text("results/scores/scores.json\n")
    (run / ".snakemake/lowland.json").unlink(missing_ok=True)
    complaint = answer_of(lowland("run", "--workdir", run)).complaint
    assert "a lock of which it is not known who holds it" in complaint
    assert complaint.endswith(f"`lowland run --workdir {run} --unlock`")
    assert ask("run", "--workdir", run, "--unlock").code == 0
    check_finished(project, run)


def test_two_runs_at_once_are_one(project: Project, tmp_path: Path) -> None:
    run = begun(project, tmp_path)
    both = [started(run), started(run)]
    ends = [(process.communicate()[1], process.returncode) for process in both]
    assert sorted(code for _, code in ends) == [0, 2], ends
    refused = next(said for said, code in ends if code == 2)
    assert f"expected {run} to be free" in refused and "Traceback" not in refused
    assert differences(project.run, run) == [] and faults(run) == []


def test_what_changes_a_run_asks_for_it_alone(project: Project, tmp_path: Path) -> None:
    run = project.copy_of_run(tmp_path)
    with held(run):
        for command in (("retire", run, "--rows", "3"), ("compact", run), ("verify", run, "--repair")):
            assert ask(*command).complaint.startswith(f"expected {run} to be free, got process {os.getpid()} on ")
    assert ask("retire", run, "--rows", "3").code == 0


# -- jobs ------------------------------------------------------------------------------------------

ONCE = '''"""Does not train the first time."""

from pathlib import Path

from my_rows import MyRows


class Once(MyRows):
    def train(self, model):
        tried = Path(__file__).with_name("tried")
        if not tried.exists():
            tried.touch()
            raise OSError("the file server is away")
        super().train(model)
'''


def test_a_job_that_succeeds_when_tried_again_leaves_no_word_of_failure(tmp_path: Path) -> None:
    once = new_project(tmp_path / "once", task={"class": "once.py:Once"})
    (once.directory / "once.py").write_text(ONCE, encoding="utf-8")
    said = succeed("run", "-c", once.config, "--workdir", once.run, "--until", "train", "--", "--retries", "1")
    assert "Trying to restart" in said and (once.directory / "tried").exists()
    assert not (once.run / "results/failure.json").exists()


# -- disks -----------------------------------------------------------------------------------------


def test_a_full_disk_is_named_and_nothing_is_lost(project: Project, tmp_path: Path, mount: Mount) -> None:
    disk = mount("disk", "-t", "tmpfs", "-o", "size=12M", "none")
    run = begun(project, disk)
    filler = disk / "filler"
    with filler.open("wb") as stream:
        stream.write(b"x" * (room(disk) - 60_000))
    answer = answer_of(lowland("run", "--workdir", run, "--cores", 1))
    # The job may say so too: its own words reach the screen where its log has no room either.
    assert answer.code == 2 and "got a full disk; free some and run again" in answer.err.splitlines()[-1]
    assert "Traceback" not in answer.err and not list((run / "results").rglob(".*.tmp"))
    filler.unlink()
    check_finished(project, run)


def room(disk: Path) -> int:
    return shutil.disk_usage(disk).free


def test_a_read_only_store_answers_and_refuses_to_be_written(project: Project, tmp_path: Path, mount: Mount) -> None:
    run = project.copy_of_run(tmp_path)
    read_only = mount("shut", "--bind", str(run))
    subprocess.run(["mount", "-o", "remount,ro,bind", str(read_only)], check=True)
    question = ("query", "{run}", "--row", "query:3", "--json")
    answers = [ask(*(word.format(run=place) for word in question)).rows for place in (project.run, read_only)]
    assert answers[0] == answers[1]
    assert ask("verify", read_only).code == 0
    assert "expected permission to use" in answer_of(lowland("run", "--workdir", read_only)).complaint
    assert differences(project.run, run) == []


def test_a_damaged_shard_is_made_again_as_it_was(project: Project, tmp_path: Path) -> None:
    run = project.copy_of_run(tmp_path)
    chunk = run / "results/gradients/trained/train/00000.zarr/codes/c/0/0"
    chunk.write_bytes(chunk.read_bytes()[: chunk.stat().st_size // 2])
    complaint = answer_of(lowland("run", "--workdir", run, "--cores", 2, "--force", "curvature")).complaint
    named = re.search(r"delete (\S+00000\.json)", complaint)
    assert named, complaint
    (run / named[1] if not Path(named[1]).is_absolute() else Path(named[1])).unlink()
    check_finished(project, run)


# -- clocks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("offset_s", [400 * DAY_S, -400 * DAY_S])
def test_a_clock_that_was_wrong_for_all_of_a_run(project: Project, tmp_path: Path, offset_s: int) -> None:
    run = project.copy_of_run(tmp_path)
    shift([place for place in (run / "results").rglob("*") if place.is_file()], offset_s)
    assert planned(run) == set()
    assert differences(project.run, run) == []


def test_a_clock_that_jumped_back_in_mid_run(project: Project, tmp_path: Path) -> None:
    """What was made before the jump has times of the future; what is made after it is older, and remains."""
    run = begun(project, tmp_path)
    shift(list((run / "results").rglob("*.json")), 10 * DAY_S)
    check_finished(project, run)
    assert planned(run) == set()


def shift(places: list[Path], offset_s: int) -> None:
    for place in places:
        stat = place.stat()
        os.utime(place, ns=(stat.st_atime_ns, stat.st_mtime_ns + offset_s * 10**9))
