"""What can go wrong, by whose fault, and the exit code that says so.

A message is one sentence of the form "expected X, got Y", followed by what to do. The core raises, a step adds the
artefact, shard and rows, and the command line maps the class to an exit code:

* 0: done
* 1: `LowlandError`, a fault of ours
* 2: `InputError` and its kinds, a fault of the input: nothing was changed, and the message says what to mend
"""

from __future__ import annotations


class LowlandError(Exception):
    """Anything that Lowland raises on purpose; raised itself, it means a fault of ours."""

    exit_code = 1


class InputError(LowlandError):
    """Something that the user gave and can mend."""

    exit_code = 2


class ConfigError(InputError):
    """A configuration key or value that is unknown, missing or out of range."""


class TaskError(InputError):
    """A task that does not import, lacks a method, or breaks the contract of `pipeline.tasks.base.Task`."""


class DataError(InputError):
    """Rows, labels or files that cannot be used as they are."""


class CheckpointError(InputError):
    """Weights that do not fit the model, or a file that holds none."""


class StoreError(InputError):
    """An artefact that is missing, incomplete, damaged, or made from something else than what is asked for."""


class CapacityError(InputError):
    """Not enough room: a full disk, or a plan that exceeds the memory that it may use."""
