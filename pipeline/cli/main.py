"""The command `lowland`. Commands import what they need when called, so that help and queries start at once."""

from __future__ import annotations

import errno
import sys
from typing import Any

import click

from pipeline import __version__
from pipeline.cli.threads import limit_threads
from pipeline.errors import CapacityError, LowlandError

COMMANDS = {
    "run": "pipeline.cli.run:run",
    "plan": "pipeline.cli.plan:plan",
    "query": "pipeline.cli.query:query",
    "suspects": "pipeline.cli.suspects:suspects",
    "report": "pipeline.cli.report:report",
    "evaluate": "pipeline.cli.evaluate:evaluate",
    "retire": "pipeline.cli.retire:retire",
    "compact": "pipeline.cli.retire:compact",
    "verify": "pipeline.cli.verify:verify",
    "init": "pipeline.cli.init:init",
    "stage": "pipeline.cli.stage:stage",
}
"""In the order in which a newcomer meets them: name to where it is."""
SIDE_BY_SIDE = ("query",)
"""Commands that search parts and scan blocks side by side, on all cores: within each, one thread is quickest."""


class Commands(click.Group):
    """A group whose commands are imported when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All commands."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """The command of that name."""
        if name not in COMMANDS:
            return None
        if name in SIDE_BY_SIDE:
            limit_threads(1)
        module, attribute = COMMANDS[name].split(":")
        command: click.Command = getattr(__import__(module, fromlist=[attribute]), attribute)
        return command


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="lowland")
def lowland() -> None:
    """Which training samples shaped your model, which harm it, and what their labels should be.

    \b
    Start with:   lowland init my_project        a task file and a config for your own model
                  lowland run -c my.yaml         compute, on this machine or a cluster
                  lowland suspects runs/my       the rows that harm the model
                  lowland query runs/my --row query:17
    """


def main(arguments: list[str] | None = None) -> None:
    """Run a command; an error of ours becomes one sentence and its exit code.

    Exit codes: 0 done, 2 something in the input to mend, 1 a fault of Lowland.
    """
    try:
        lowland.main(args=arguments, prog_name="lowland", standalone_mode=False)
    except click.exceptions.Abort:
        _end("interrupted", 130)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(error.exit_code)
    except click.ClickException as error:
        _end(f"{_sentence(error.format_message())}; see `{_path(error)} --help`", error.exit_code)
    except LowlandError as error:
        _end(str(error), error.exit_code)
    except OSError as error:
        _end_of_os(error)


def _sentence(text: str) -> str:
    """What click says, in one line without its full stop."""
    line = " ".join(text.split()).removesuffix(".")
    return line[:1].lower() + line[1:]


def _path(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    return context.command_path if context else "lowland"


def _end_of_os(error: OSError) -> Any:
    if error.errno == errno.EPIPE:
        sys.stderr.close()
        sys.exit(0)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        full = CapacityError(f"expected room on disk for {error.filename}, got a full disk; free some and run again")
        _end(str(full), full.exit_code)
    if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
        _end(f"expected permission to use {error.filename}, got: {error.strerror}; change it and run again", 2)
    if error.errno in (errno.EEXIST, errno.ENOTDIR, errno.EISDIR):
        _end(
            f"expected another kind of file at {error.filename}, got: {error.strerror}; choose another path",
            2,
        )
    raise error


def _end(message: str, code: int) -> None:
    click.echo(f"lowland: {message}", err=True)
    sys.exit(code)
