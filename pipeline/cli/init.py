"""`lowland init`: a task file and a config to start from."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.errors import InputError


@click.command()
@click.argument("directory", type=click.Path(path_type=Path), default=Path())
def init(directory: Path) -> None:
    """Write my_task.py and my_task.yaml to DIRECTORY: a whole, runnable task to change into your own."""
    from pipeline.tasks.template import config_template, task_template

    files = {"my_task.py": task_template(), "my_task.yaml": config_template()}
    taken = [name for name in files if (directory / name).exists()]
    if taken:
        raise InputError(
            f"expected no {taken[0]} in {directory}, got one; choose another directory, nothing was overwritten"
        )
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (directory / name).write_text(text, encoding="utf-8")
    click.echo(
        f"wrote {directory / 'my_task.py'} and {directory / 'my_task.yaml'}; next: lowland run -c "
        f"{directory / 'my_task.yaml'}"
    )
