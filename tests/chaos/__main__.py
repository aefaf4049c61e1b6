"""Runs that are killed at random moments and started again: `python -m tests.chaos --runs 50 --seed 0`.

A small workflow is computed once undisturbed. Then, as often as asked, it is started in a new directory, killed (-9, the
whole process group) at a random moment, and started again, which may be killed too, until it ends by itself. Nobody
unlocks anything. Every artefact must have the bytes of the undisturbed run's, every answer must be equal, `lowland
verify` must find nothing, and nothing temporary may be left. The moments follow from the seed; what a moment hits
depends on the machine. With `--cold`, every job starts an interpreter, as on a cluster: a run takes three times as long,
and more of the kills hit imports than work.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.warm import COLD
from tests.workflow.runs import COMMAND, environment
from tests.workflow.same import differences, faults

CONFIG = Path(__file__).parent / "tiny.yaml"
AGAIN = 0.4
"""Probability that a run that was started again is killed again."""
LIMIT_S = 900


def start(run: Path, log: Path, own: dict[str, str]) -> subprocess.Popen[bytes]:
    """`lowland run` in a process group of its own, in this environment."""
    command = [*COMMAND, "run", "-c", str(CONFIG), "--workdir", str(run), "--cores", "2"]
    with log.open("ab") as stream:
        return subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT, env=own, start_new_session=True)


def disturbed(run: Path, log: Path, own: dict[str, str], chance: random.Random, whole_s: float) -> list[float]:
    """Bring a run to its end through kills; returns when each start was killed, in seconds.

    Raises:
        RuntimeError: a start failed, or hung.
    """
    moments: list[float] = []
    while True:
        process = start(run, log, own)
        moment = chance.uniform(0, whole_s) if not moments or chance.random() < AGAIN else None
        try:
            code = process.wait(LIMIT_S if moment is None else moment)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if moment is None:
                raise RuntimeError(f"no end in {LIMIT_S} s:\n{tail(log)}") from None
            moments.append(moment)
            continue
        if code:
            raise RuntimeError(f"exit code {code}:\n{tail(log)}")
        return moments


def tail(log: Path) -> str:
    """The last lines that a run said."""
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-40:])


def main() -> int:
    """Do all runs; the exit code says whether all were as the undisturbed one."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--directory", type=Path, help="where runs are kept; else they are removed")
    parser.add_argument("--cold", action="store_true", help="start an interpreter for each job instead of forking it")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        own = environment() | (COLD if given.cold else {})
        return all_runs(given.directory or Path(scratch), own, given.runs, given.seed)


def all_runs(directory: Path, own: dict[str, str], runs: int, seed: int) -> int:
    """The undisturbed run, then the others; prints a line for each and returns how many went wrong, up to 1."""
    directory.mkdir(parents=True, exist_ok=True)
    reference, log = directory / "undisturbed", directory / "undisturbed.log"
    began = time.monotonic()
    if start(reference, log, own).wait():
        print(tail(log))
        return 1
    whole_s = time.monotonic() - began
    print(f"undisturbed: {whole_s:.1f} s", flush=True)
    wrong = sum(
        not one_run(directory, reference, own, number, random.Random(f"{seed} {number}"), whole_s)
        for number in range(runs)
    )
    print(f"{runs - wrong} passed, {wrong} failed")
    return min(wrong, 1)


def one_run(
    directory: Path, reference: Path, own: dict[str, str], number: int, chance: random.Random, whole_s: float
) -> bool:
    """One run through its kills; whether it came to the same."""
    run, log = directory / f"run-{number:02d}", directory / f"run-{number:02d}.log"
    began = time.monotonic()
    killed = "killed"
    try:
        moments = disturbed(run, log, own, chance, whole_s)
        killed = f"killed after {', '.join(f'{moment:.1f}' for moment in moments) or 'its end'} s"
        found = [*differences(reference, run), *faults(run)]
    except RuntimeError as error:
        found = [str(error)]
    took = time.monotonic() - began
    print(f"run {number}: {killed}, {took:.1f} s in all, {'; '.join(found) or 'the same'}", flush=True)
    return not found


if __name__ == "__main__":
    sys.exit(main())
