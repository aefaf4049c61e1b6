"""The server of `tests.warm`: `python -m tests.warm.server SOCKET` until its stdin ends."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import pkgutil
import selectors
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import NoReturn

from pipeline import steps
from pipeline.cli import main


def serve(address: str) -> None:
    """Fork a child for each that asks; tell it how the child ended; kill the child of one that is gone."""
    for module in pkgutil.iter_modules(steps.__path__):
        importlib.import_module(f"pipeline.steps.{module.name}")
    assert threading.active_count() == 1, "a fork of several threads may hang"
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(address)
    listening.listen(64)
    waiting = selectors.DefaultSelector()
    waiting.register(listening, selectors.EVENT_READ)
    waiting.register(sys.stdin, selectors.EVENT_READ)
    print("ready", flush=True)
    children: dict[int, socket.socket] = {}
    while True:
        for key, _ in waiting.select():
            if key.fileobj is sys.stdin:
                for child in children:
                    os.kill(child, signal.SIGKILL)
                return
            if key.fileobj is listening:
                asker = listening.accept()[0]
                child = forked(asker, listening)
                children[child] = asker
                waiting.register(asker, selectors.EVENT_READ, child)
                waiting.register(os.pidfd_open(child), selectors.EVENT_READ, child)
            elif key.fileobj is children.get(key.data):  # it never says more: it is gone
                waiting.unregister(key.fileobj)
                os.kill(key.data, signal.SIGKILL)
            else:
                ended(waiting, key, children.pop(key.data))


def ended(waiting: selectors.BaseSelector, key: selectors.SelectorKey, asker: socket.socket) -> None:
    """A child has ended."""
    code = os.waitstatus_to_exitcode(os.waitpid(key.data, 0)[1])
    waiting.unregister(key.fd)
    os.close(key.fd)
    if asker.fileno() in waiting.get_map():
        waiting.unregister(asker)
    with contextlib.suppress(OSError):  # killed
        asker.sendall(f"{code}\n".encode())
    asker.close()


def forked(asker: socket.socket, listening: socket.socket) -> int:
    """A child that does what is asked for."""
    _, streams, _, _ = socket.recv_fds(asker, 1, 3)
    asked = json.loads(asker.makefile().readline())
    child = os.fork()
    if not child:
        listening.close()
        asker.close()
        for place, stream in enumerate(streams):
            os.dup2(stream, place)
        do(asked["argv"], asked["cwd"], asked["environment"])
    for stream in streams:
        os.close(stream)
    return child


def do(argv: list[str], cwd: str, environment: dict[str, str]) -> NoReturn:
    """What `python -m pipeline` does with these arguments."""
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    sys.path.insert(0, cwd)
    sys.argv = [str(Path(main.__code__.co_filename)), *argv]
    code: object = 1
    try:
        main()
        code = 0
    except SystemExit as end:
        code = end.code
        if isinstance(code, str):
            print(code, file=sys.stderr)
    except BaseException:  # as the interpreter does
        sys.excepthook(*sys.exc_info())
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else code is not None)


if __name__ == "__main__":
    serve(sys.argv[1])
