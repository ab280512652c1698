"""A machine with a cache of its own: fresh processes that use mlx_sam2 against a stand-in for the Hub."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import struct
import subprocess
import sys
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

TOKEN = "hf_secretsecretsecret"
DEAD = "http://127.0.0.1:9"  # the discard port: nothing listens there

FOREIGN = ("HF_", "HUGGING", "TRANSFORMERS_")  # the developer's own settings of the Hub's client

# Calls of mlx_sam2.hub, one line for each result. SLEPT tells what was slept through.
ASK = """
import json, sys, time
from mlx_sam2 import hub
slept = []
if {hurry}: time.sleep = slept.append
{patch}
for function, arguments, keywords in json.loads({calls!r}):
    try:
        print(getattr(hub, function)(*arguments, **keywords))
    except hub.HubError as error:
        print("HubError:", error)
if {hurry}: print("SLEPT", *slept)
"""

# One process that has the client loaded and forks for every question: importing it takes longer than all else. The
# fork reads its environment again, as a process that starts with it does.
FORKS = """
import importlib, json, os, sys, tempfile, traceback
import huggingface_hub.hf_api, huggingface_hub.file_download, huggingface_hub._snapshot_download
from huggingface_hub import constants
from mlx_sam2 import hub

for line in sys.stdin:
    code, environment = json.loads(line)
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        child = os.fork()
        if child == 0:
            os.dup2(out.fileno(), 1), os.dup2(err.fileno(), 2)
            os.environ.clear(), os.environ.update(environment)
            importlib.reload(constants)
            status = 0
            try:
                exec(code, {"__name__": "__main__"})
            except BaseException:
                traceback.print_exc()
                status = 1
            sys.__stdout__.flush(), sys.__stderr__.flush()
            os._exit(status)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        out.seek(0), err.seek(0)
        print(json.dumps([status, out.read(), err.read()]), flush=True)
"""


@lru_cache(maxsize=1)
def forks() -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", FORKS],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={k: v for k, v in os.environ.items() if not k.upper().startswith(FOREIGN)},
    )
    atexit.register(process.wait)
    atexit.register(process.stdin.close)  # called first: its loop ends
    return process


@dataclass
class Machine:
    """Everything that a process prints is checked for tokens; nothing of the developer's Hub settings is inherited."""

    home: Path
    hurry: bool = False  # do not wait before trying again; ``slept`` then lists the seconds
    patch: str = ""  # lines of Python that run before the first call
    slept: tuple[float, ...] = ()

    def environment(self, endpoint: str, **more: str) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.upper().startswith(FOREIGN) and "PROXY" not in k.upper()}
        return {
            **kept,
            "HF_HOME": str(self.home),
            "HF_ENDPOINT": endpoint,
            "HF_HUB_DISABLE_XET": "1",  # Xet storage is another protocol, which no stand-in speaks
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1",
            **more,
        }

    def run(self, endpoint: str, *arguments: str, cwd: Path | None = None, **environment: str):
        """``python ARGUMENTS``, as a user would run it."""
        done = subprocess.run(
            [sys.executable, *arguments],
            env=self.environment(endpoint, **environment),
            capture_output=True,
            text=True,
            cwd=cwd,
        )
        assert TOKEN not in done.stdout + done.stderr
        return done

    def in_a_terminal(self, endpoint: str, code: str, **environment: str) -> str:
        """Standard error of ``python -c CODE`` where it is a terminal of 100 columns."""
        import fcntl
        import pty
        import termios

        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
        environment = self.environment(endpoint, **environment)
        process = subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=theirs)
        os.close(theirs)
        shown = b""
        with os.fdopen(ours, "rb", buffering=0) as terminal, contextlib.suppress(OSError):  # Linux ends with EIO
            while part := terminal.read(1 << 16):
                shown += part
        assert process.wait() == 0
        assert TOKEN not in shown.decode()
        return shown.decode()

    def ask(self, endpoint: str, *calls: tuple, **environment: str) -> list[str]:
        """Results of ``(function, *arguments)`` or ``(function, *arguments, {keywords})``, as text."""
        sent = [(c[0], c[1:-1], c[-1]) if isinstance(c[-1], dict) else (c[0], c[1:], {}) for c in calls]
        code = ASK.format(hurry=self.hurry, patch=self.patch, calls=json.dumps(sent, default=str))
        if sys.platform == "linux":
            process = forks()
            process.stdin.write(json.dumps([code, self.environment(endpoint, **environment)]) + "\n")
            process.stdin.flush()
            status, out, err = json.loads(process.stdout.readline())
        else:  # macOS's frameworks do not like forks
            done = self.run(endpoint, "-c", code, **environment)
            status, out, err = done.returncode, done.stdout, done.stderr
        assert TOKEN not in out + err
        assert status == 0, err
        assert err == "", "a progress bar although this is no terminal, or the client's retries"
        lines = out.splitlines()
        if self.hurry:
            self.slept = tuple(map(float, lines.pop().split()[1:]))
        assert len(lines) == len(calls), out
        return lines

    def resolve(self, endpoint: str, *arguments: object, **environment: str) -> str:
        return self.ask(endpoint, ("resolve", *arguments), **environment)[0]

    def upload(self, endpoint: str, folder: Path, repo: str, **keywords: object) -> str:
        return self.ask(endpoint, ("upload", str(folder), repo, {"token": TOKEN, **keywords}))[0]

    def partial_downloads(self) -> list[Path]:
        return [p for p in self.home.rglob("*.incomplete") if p.is_file()]
