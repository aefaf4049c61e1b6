"""Jobs without their start, the server: `python -m pipeline.cli.forks DESCRIPTOR THREADS` forks a child for each job.

It imports every stage once, before it forks, and computes nothing itself: it has no thread but its own. A child dies
with its server, and with the process that asked for it (`pipeline.warm`). The server ends when its stdin does, that is
with whoever started it. Linux alone: elsewhere libraries do not survive a fork.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import os
import pkgutil
import selectors
import signal
import socket
import struct
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from pipeline.cli.threads import limit_threads
from pipeline.warm import SERVER, TAKEN, abstract, code

SUPPORTED = sys.platform == "linux"
QUEUE = 128
PR_SET_PDEATHSIG = 1


@contextmanager
def forking(threads: int) -> Iterator[dict[str, str]]:
    """Within the context a server runs; yields the environment by which jobs find it.

    Yields the environment as it is where a server is named already (LOWLAND_SERVER, empty: none is wanted), or none can
    be.

    Args:
        threads: of a job; one that wants another number starts by itself.
    """
    if not SUPPORTED or SERVER in os.environ:
        yield dict(os.environ)
        return
    name = f"lowland-{uuid.uuid4()}"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(abstract(name))
        listening.listen(QUEUE)  # jobs may wait before the server is there
        command = [sys.executable, "-m", __name__, str(listening.fileno()), str(threads)]
        server = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=[listening.fileno()])
    with server:
        try:
            yield {**os.environ, SERVER: name}
        finally:
            server.kill()


class Server:
    """Children, who asked for them, and who waits for what."""

    def __init__(self, listening: socket.socket, threads: int) -> None:
        """Listen to a socket, and to stdin."""
        self._listening, self._threads = listening, threads
        self._askers: dict[int, socket.socket] = {}
        self._waiting = selectors.DefaultSelector()
        self._waiting.register(listening, selectors.EVENT_READ)
        self._waiting.register(sys.stdin, selectors.EVENT_READ)

    def serve(self) -> None:
        """Until stdin ends; then all children are killed."""
        while True:
            for key, _ in self._waiting.select():
                if key.fileobj is sys.stdin:
                    for child in self._askers:
                        os.kill(child, signal.SIGKILL)
                    return
                if key.fileobj is self._listening:
                    self._asked()
                elif key.fileobj is self._askers.get(key.data):  # it never says more: it is gone
                    self._waiting.unregister(key.fileobj)
                    os.kill(key.data, signal.SIGKILL)
                else:
                    self._ended(key)

    def _asked(self) -> None:
        """Fork a child, or close the connection, so that the job starts by itself."""
        asker = self._listening.accept()[0]
        streams, job = _read(asker) if _owner(asker) == os.getuid() else ([], None)
        with contextlib.suppress(OSError):  # no memory or process is left for a child, or the asker is gone
            if job is not None and job["code"] == code() and _threads_of(job["arguments"]) == self._threads:
                self._fork(asker, job, streams)
        if asker not in self._askers.values():
            asker.close()
        for stream in streams:
            os.close(stream)

    def _fork(self, asker: socket.socket, job: dict[str, Any], streams: list[int]) -> None:
        server, child = os.getpid(), os.fork()
        if not child:
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != server:
                os._exit(1)
            self._listening.close()
            asker.close()
            _do(job, streams)
        self._askers[child] = asker
        self._waiting.register(asker, selectors.EVENT_READ, child)
        self._waiting.register(os.pidfd_open(child), selectors.EVENT_READ, child)
        asker.sendall(f"{TAKEN}\n".encode())

    def _ended(self, key: selectors.SelectorKey) -> None:
        """Tell the asker how its child ended."""
        asker = self._askers.pop(key.data)
        status = os.waitstatus_to_exitcode(os.waitpid(key.data, 0)[1])
        self._waiting.unregister(key.fd)
        os.close(key.fd)
        if asker.fileno() in self._waiting.get_map():
            self._waiting.unregister(asker)
        with contextlib.suppress(OSError):  # killed
            asker.sendall(f"{status}\n".encode())
        asker.close()


def _owner(asker: socket.socket) -> int:
    """The user that asks: a name of a socket, unlike a file, is open to all."""
    _, user, _ = struct.unpack("3i", asker.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    return int(user)


def _read(asker: socket.socket) -> tuple[list[int], dict[str, Any] | None]:
    """Its streams, and what it asks for; None: it is gone already."""
    try:
        _, streams, _, _ = socket.recv_fds(asker, 1, 3)
        return streams, json.loads(asker.makefile().readline())
    except (OSError, ValueError):
        return [], None


def _threads_of(arguments: list[str]) -> int | None:
    """The threads of a job, by its configuration; None: it cannot be read, which the job itself will explain."""
    with contextlib.suppress(ValueError, IndexError, AttributeError):
        threads: int = json.loads(arguments[arguments.index("--config") + 1]).get("compute", {}).get("threads", 1)
        return threads
    return None


def _do(job: dict[str, Any], streams: list[int]) -> NoReturn:
    """In the child, what `python -m pipeline` does with these arguments."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for place, stream in enumerate(streams):
        os.dup2(stream, place)
    os.environ.clear()
    os.environ.update(job["environment"])
    os.chdir(job["place"])
    sys.path.insert(0, job["place"])
    status: object = 1
    try:
        importlib.import_module("pipeline.cli").main(job["arguments"])
        status = 0
    except SystemExit as end:
        status = end.code
        if isinstance(status, str):
            print(status, file=sys.stderr)
    except BaseException:  # as the interpreter does
        sys.excepthook(*sys.exc_info())
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status if isinstance(status, int) else status is not None)


def main() -> None:
    """Import all stages, and serve."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the terminal: those who asked will be gone
    number, threads = (int(word) for word in sys.argv[1:])
    limit_threads(threads)
    from pipeline import steps

    for module in pkgutil.iter_modules(steps.__path__):
        importlib.import_module(f"pipeline.steps.{module.name}")
    assert threading.active_count() == 1, "a fork of several threads may hang"
    os.chdir("/")  # no run is this process's place
    Server(socket.socket(fileno=number), threads).serve()


if __name__ == "__main__":
    main()
