"""The command's beginning and end: what it lists, how errors become a sentence and an exit code."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import click
import pytest

from pipeline import __version__
from pipeline.cli.main import COMMANDS, lowland, main
from pipeline.errors import CapacityError, ConfigError, LowlandError


def end(error: Exception, monkeypatch: pytest.MonkeyPatch) -> int:
    """The exit code of a command in which `error` comes up."""

    def fail(**_: object) -> None:
        raise error

    monkeypatch.setattr(lowland, "main", fail)
    with pytest.raises(SystemExit) as ended:
        main([])
    return int(ended.value.code or 0)


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (ConfigError("expected a, got b; do c"), 2, "lowland: expected a, got b; do c\n"),
        (CapacityError("expected room"), 2, "lowland: expected room\n"),
        (LowlandError("expected x"), 1, "lowland: expected x\n"),
        (click.exceptions.Abort(), 130, "lowland: interrupted\n"),
        (click.BadParameter("no.\nSuch"), 2, "lowland: invalid value: no. Such; see `lowland --help`\n"),
        (
            OSError(errno.ENOSPC, "full", "here"),
            2,
            "lowland: expected room on disk for here, got a full disk; free some and run again\n",
        ),
        (
            OSError(errno.EROFS, "read-only", "here"),
            2,
            "lowland: expected permission to use here, got: read-only; change it and run again\n",
        ),
    ],
)
def test_an_error_is_one_sentence_and_a_code(
    error: Exception, code: int, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert end(error, monkeypatch) == code
    assert capsys.readouterr() == ("", said)


def test_an_error_of_nobody_is_shown_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ZeroDivisionError):
        end(ZeroDivisionError(), monkeypatch)
    with pytest.raises(OSError, match="odd"):
        end(OSError(errno.EIO, "odd"), monkeypatch)


def test_help_names_all_commands(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--help"])
    out = capsys.readouterr().out
    assert all(f"  {name} " in out for name in COMMANDS)
    main(["--version"])
    assert __version__ in capsys.readouterr().out


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    main([name, "--help"])
    assert f"Usage: lowland {name}" in capsys.readouterr().out


def test_help_and_queries_import_no_torch_and_no_snakemake() -> None:
    code = "import sys, pipeline.cli.main, pipeline.cli.query, pipeline.cli.suspects; print([m for m in ('torch', 'snakemake') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


def test_a_query_takes_one_thread_in_each_of_what_runs_side_by_side() -> None:
    """In a process of its own: numpy looks once for how many threads it may take."""
    asked = "from pipeline.cli import main; import contextlib, io\n" \
        "with contextlib.redirect_stdout(io.StringIO()): main(['query', '--help'])\n" \
        "import numpy, threadpoolctl; print({pool['num_threads'] for pool in threadpoolctl.threadpool_info()})"  # fmt: skip
    own = {**os.environ, "OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, env=own)
    assert done.stdout == "{1}\n", done.stderr
