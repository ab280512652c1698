"""A machine with a cache of its own: fresh processes that use mlx_sam2 against a stand-in for the Hub."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

TOKEN = "hf_secretsecretsecret"
DEAD = "http://127.0.0.1:9"  # the discard port: nothing listens there

# Calls of mlx_sam2.hub, one line for each result. SLEEPS tells what was slept through.
ASK = """
import json, sys, time
from mlx_sam2 import hub
slept = []
if {hurry}: time.sleep = slept.append
{patch}
for function, arguments, keywords in json.loads(sys.argv[1]):
    try:
        print(getattr(hub, function)(*arguments, **keywords))
    except hub.HubError as error:
        print("HubError:", error)
if {hurry}: print("SLEPT", *slept)
"""


@dataclass
class Machine:
    """Everything that a process prints is checked for tokens; nothing of the developer's Hub settings is inherited."""

    home: Path
    hurry: bool = False  # do not wait before trying again; ``slept`` then lists the seconds
    patch: str = ""  # lines of Python that run before the first call
    slept: tuple[float, ...] = ()

    def environment(self, endpoint: str, **more: str) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING", "TRANSFORMERS_"))}
        return {
            **kept,
            "HF_HOME": str(self.home),
            "HF_ENDPOINT": endpoint,
            "HF_HUB_DISABLE_XET": "1",  # Xet storage is another protocol, which no stand-in speaks
            "HF_HUB_DISABLE_TELEMETRY": "1",
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

    def ask(self, endpoint: str, *calls: tuple, **environment: str) -> list[str]:
        """Results of ``(function, *arguments)`` or ``(function, *arguments, {keywords})``, as text."""
        sent = [(c[0], c[1:-1], c[-1]) if isinstance(c[-1], dict) else (c[0], c[1:], {}) for c in calls]
        code = ASK.format(hurry=self.hurry, patch=self.patch)
        done = self.run(endpoint, "-c", code, json.dumps(sent, default=str), **environment)
        assert done.returncode == 0, done.stderr
        assert done.stderr == "", "a progress bar although this is no terminal, or the client's retries"
        lines = done.stdout.splitlines()
        if self.hurry:
            self.slept = tuple(map(float, lines.pop().split()[1:]))
        assert len(lines) == len(calls), done.stdout
        return lines

    def resolve(self, endpoint: str, *arguments: object, **environment: str) -> str:
        return self.ask(endpoint, ("resolve", *arguments), **environment)[0]

    def upload(self, endpoint: str, folder: Path, repo: str, **keywords: object) -> str:
        return self.ask(endpoint, ("upload", str(folder), repo, {"token": TOKEN, **keywords}))[0]

    def partial_downloads(self) -> list[Path]:
        return [p for p in self.home.rglob("*.incomplete") if p.is_file()]
