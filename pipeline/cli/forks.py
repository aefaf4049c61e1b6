"""Jobs without their start, the server: `python -m pipeline.cli.forks DESCRIPTOR THREADS` forks a child for each job.

At the first job it imports every stage, and computes nothing itself. A child dies with its server, and with the process
that asked for it (`pipeline.warm`). The server ends when its stdin does, that is with whoever started it. A job that
would not do the same here is not taken: of other code, or of code that was edited since it was imported; of another
number of threads. Linux alone: elsewhere libraries do not survive a fork.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import os
import pkgutil
import secrets
import selectors
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.cli import ending
from pipeline.cli.threads import limit_threads
from pipeline.warm import SERVER, TAKEN, abstract, code, owner

PACKAGE = Path(__file__).parents[1]
QUEUE = 128
PR_SET_PDEATHSIG = 1


def supported() -> bool:
    """Whether this system can: it is Linux, and lets processes be waited for by descriptor."""
    if sys.platform != "linux":
        return False
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (AttributeError, OSError):
        return False
    return True


@contextmanager
def forking(threads: int) -> Iterator[dict[str, str]]:
    """Within the context a server runs; yields the environment by which jobs find it.

    Yields the environment as it is where a server is named already (LOWLAND_SERVER, empty: none is wanted), or none can
    be.

    Args:
        threads: of a job; one that wants another number starts by itself.
    """
    if SERVER in os.environ or not supported():
        yield dict(os.environ)
        return
    name = f"lowland-{secrets.token_hex(8)}"
    environment = {**os.environ, SERVER: f"{name} {secrets.token_hex(16)}"}
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(abstract(name))
        listening.listen(QUEUE)  # jobs may wait before the server is there
        # -P: where the command was typed is no place to import from
        command = [sys.executable, "-P", "-m", __name__, str(listening.fileno()), str(threads)]
        server = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=[listening.fileno()], env=environment)
    with server:
        try:
            yield environment
        finally:
            server.kill()


class Forked(BaseException):
    """Raised in a child, out of the server's loop: what it has to do."""

    def __init__(self, job: dict[str, Any], streams: list[int]) -> None:
        """A job, and its stdin, stdout and stderr."""
        super().__init__()
        self.job, self.streams = job, streams


class Server:
    """Children, who asked for them, and who waits for what."""

    def __init__(self, listening: socket.socket, threads: int) -> None:
        """Listen to a socket, and to stdin."""
        self._listening, self._threads = listening, threads
        self._secret = os.environ.get(SERVER, "").partition(" ")[2]
        self._stamps: dict[str, tuple[int, int]] | None = None
        self._askers: dict[int, socket.socket] = {}
        self._waiting = selectors.DefaultSelector()
        self._waiting.register(listening, selectors.EVENT_READ)
        self._waiting.register(sys.stdin, selectors.EVENT_READ)

    def serve(self) -> None:
        """Until stdin ends; then all children are killed.

        Raises:
            Forked: in each child.
        """
        while True:
            for key, _ in self._waiting.select():
                if key.fileobj is sys.stdin:
                    for child in self._askers:
                        os.kill(child, signal.SIGKILL)
                    return
                if key.fileobj is self._listening:
                    self._asked()
                elif key.data not in self._askers:
                    continue  # the child has ended, and who asked is gone, both at once
                elif key.fileobj is self._askers[key.data]:  # it never says more: it is gone
                    self._waiting.unregister(key.fileobj)
                    os.kill(key.data, signal.SIGKILL)
                else:
                    self._ended(key)

    def _asked(self) -> None:
        """Fork a child, or close the connection, so that the job starts by itself."""
        with contextlib.suppress(OSError):  # no memory, process or descriptor is left, or the asker is gone
            asker = self._listening.accept()[0]
            streams, job = _read(asker) if owner(asker) == os.getuid() else ([], None)
            try:
                if job is not None and self._takes(job):
                    self._fork(asker, job, streams)
            finally:
                if asker not in self._askers.values():
                    asker.close()
                for stream in streams:
                    os.close(stream)

    def _takes(self, job: dict[str, Any]) -> bool:
        """Whether a child would do what a process of its own would."""
        if not secrets.compare_digest(str(job["secret"]), self._secret) or job["code"] != code():
            return False
        if threads_of(job["arguments"]) != self._threads:
            return False
        now = stamps()
        if self._stamps is None:
            self._stamps = now
            import_stages()
        return now == self._stamps

    def _fork(self, asker: socket.socket, job: dict[str, Any], streams: list[int]) -> None:
        server, child = os.getpid(), os.fork()
        if not child:
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != server:
                os._exit(1)
            self._leave(asker)
            raise Forked(job, [os.dup(stream) for stream in streams])
        try:
            ended = os.pidfd_open(child)
        except OSError:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            raise
        self._askers[child] = asker
        self._waiting.register(asker, selectors.EVENT_READ, child)
        self._waiting.register(ended, selectors.EVENT_READ, child)
        with contextlib.suppress(OSError):  # it is gone: the next look says so
            asker.sendall(f"{TAKEN}\n".encode())

    def _leave(self, asker: socket.socket) -> None:
        """In a child: hold no descriptor of the server's, for others wait until these are closed."""
        held = {key.fd for key in self._waiting.get_map().values() if key.fileobj is not sys.stdin}
        for each in (self._listening, asker, *self._askers.values()):
            held.add(each.detach())
        for descriptor in held:
            os.close(descriptor)
        self._waiting.close()

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


def _read(asker: socket.socket) -> tuple[list[int], dict[str, Any] | None]:
    """Its streams, and what it asks for; None: it is gone already."""
    try:
        _, streams, _, _ = socket.recv_fds(asker, 1, 3)
        return streams, json.loads(asker.makefile().readline())
    except (OSError, ValueError):
        return [], None


def threads_of(arguments: list[str]) -> int | None:
    """The threads of a job, by its configuration; None: it cannot be read, which the job itself will explain."""
    with contextlib.suppress(ValueError, IndexError, AttributeError):
        threads: int = json.loads(arguments[arguments.index("--config") + 1]).get("compute", {}).get("threads", 1)
        return threads
    return None


def stamps() -> dict[str, tuple[int, int]]:
    """When each file of the package was written, and its size: code that is edited later is not what was imported."""
    found = {str(file): file.stat() for file in PACKAGE.rglob("*.py")}
    return {name: (stat.st_mtime_ns, stat.st_size) for name, stat in found.items()}


def import_stages() -> None:
    """All that any stage imports before it runs, and the machine code by which most of them encode."""
    from pipeline import steps
    from pipeline.core import compiled

    for module in pkgutil.iter_modules(steps.__path__):
        importlib.import_module(f"pipeline.steps.{module.name}")
    compiled.load()
    gc.collect()
    gc.freeze()  # what children share with the server is never looked through for garbage, nor copied for that
    assert threading.active_count() == 1, "a fork of several threads of Python may hang"


def do(job: dict[str, Any], streams: list[int], interruptible: bool) -> None:
    """In the child, what `python -m pipeline` does with these arguments."""
    if interruptible:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for place, stream in enumerate(streams):
        os.dup2(stream, place)
        os.close(stream)
    os.environ.clear()
    os.environ.update(job["environment"])
    os.chdir(job["place"])
    sys.path.insert(0, job["place"])
    importlib.import_module("numpy").random.seed()  # else all children draw alike
    ending.do(importlib.import_module("pipeline.cli").main, job["arguments"])


def main() -> None:
    """Serve; a child leaves the server's loop and does its job."""
    ending.prepare()
    interruptible = signal.getsignal(signal.SIGINT) != signal.SIG_IGN
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the terminal: those who asked will be gone
    os.chdir("/")  # no run is this process's place
    number, threads = (int(word) for word in sys.argv[1:])
    limit_threads(threads)
    try:
        Server(socket.socket(fileno=number), threads).serve()
        return
    except Forked as forked:
        child = forked
    do(child.job, child.streams, interruptible)


if __name__ == "__main__":
    main()
