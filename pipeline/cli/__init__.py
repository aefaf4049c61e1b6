"""The command line: one command a step of the user's, exit codes, progress."""

from pipeline.cli.main import main

__all__ = ["main"]
