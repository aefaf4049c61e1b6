"""Hands a job to the server of `tests.warm`, before anything else is imported."""

import os
import sys

if os.environ.get("LOWLAND_WARM") and sys.orig_argv[1:4] == ["-m", "pipeline", "stage"]:
    import json
    import signal
    import socket

    asked = {
        "argv": sys.orig_argv[3:],
        "cwd": os.getcwd(),  # noqa: PTH109 - pathlib is not imported yet
        "environment": dict(os.environ),
    }
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_DFL)
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(os.environ["LOWLAND_WARM"])
        socket.send_fds(server, [b"\n"], [0, 1, 2])
        server.sendall(json.dumps(asked).encode() + b"\n")
        code = int(server.makefile().readline() or 1)
    if code < 0:
        os.kill(os.getpid(), -code)
    os._exit(code)
