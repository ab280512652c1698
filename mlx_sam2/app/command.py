"""``python -m mlx_sam2.app [IMAGE|VIDEO|FOLDER]``: click on pictures and videos in the browser."""

from __future__ import annotations

import argparse
import errno
import logging
import os
import secrets
import shutil
import signal
import socket
import sys
import threading
import webbrowser
from collections.abc import Sequence
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from .. import cli
from ..cli import UsageError
from . import folders

if TYPE_CHECKING:
    from .app import App
    from .saves import Saves

PROG = cli.program("app")
PORT = 8765
PATIENCE = 3.0  # seconds that the current step and requests under way have at the end

DESCRIPTION = "Click on pictures and videos in the browser, with SAM 2. Everything stays on this machine."
EPILOG = """\
Without a file the page asks for one: drop it there. A folder holds the numbered frames of
a video; a project is a .sam2.zip that the page has saved.

The app listens on 127.0.0.1 only, and takes requests of its own page only. With --host it can be reached from other
machines: then the address that it prints holds a token, without which nothing is answered. The connection is not
encrypted: use it in networks that you trust, or through ssh -L.

Sessions that nobody has used for two hours are closed. Sessions are saved with every edit, in the folder of --data, and
the page lists the recent ones; the oldest go when they have more than --data-limit. Ctrl-C ends the app.

Exit codes: 2 bad input, 1 any other failure, 130 ended by Ctrl-C.
"""


def build_parser() -> argparse.ArgumentParser:
    parser = cli.Parser(prog=PROG, description=DESCRIPTION, epilog=EPILOG)
    parser.add_argument(
        "file", metavar="FILE", nargs="?", type=Path, help="a picture, a video, a folder of frames or a project"
    )
    cli.add_model_options(parser)
    parser.add_argument("--memory-policy", choices=cli.MEMORY_POLICIES, default="official",
                        help="how objects are tracked in videos; default: %(default)s")  # fmt: skip
    server = parser.add_argument_group("server")
    server.add_argument("--host", default="127.0.0.1", help="the address to listen on; default: %(default)s")
    server.add_argument(
        "--port", type=cli.number(int, 0, 65_535), default=PORT, help="0: any that is free; default: %(default)s"
    )
    saves = parser.add_argument_group("saved sessions")
    saves.add_argument(
        "--data",
        metavar="FOLDER",
        type=Path,
        help=f"where they lie; default: ${folders.VARIABLE}, else the user's folder for data of applications",
    )
    saves.add_argument(
        "--data-limit",
        metavar="GB",
        type=cli.number(float, 0.001, 1e6),
        default=4.0,
        help="how much they may have together; default: %(default)g",
    )
    saves.add_argument("--no-autosave", action="store_true", help="save nothing")
    server.add_argument("--no-browser", action="store_true", help="print the address, open nothing")
    return parser


def _listen(host: str, port: int) -> socket.socket:
    """A listening socket. UsageError with one line if there can be none."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (socket.gaierror, UnicodeError):
        raise UsageError(f"--host {host}: this name has no address") from None
    listener = socket.socket(family, kind, protocol)
    try:
        if os.name == "posix":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(128)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise UsageError(f"port {port} is in use: give another one, or --port 0 for any that is free") from None
        raise UsageError(f"cannot listen on {host} port {port}: {(error.strerror or str(error)).lower()}") from None
    return listener


def _require_extra() -> None:
    try:
        import fastapi
        import python_multipart
        import uvicorn
    except ImportError as error:
        raise UsageError(f"the app needs {error.name}: pip install 'mlx-sam2[app]'") from None
    del fastapi, python_multipart, uvicorn


def _run(args: argparse.Namespace) -> int:
    _require_extra()
    from ..hub.download import check_model

    check_model(args.model, args.revision)
    if args.file is not None and not os.path.exists(args.file):
        raise UsageError(f"{args.file} does not exist: give a picture, a video or a folder of frames")
    from .security import Access, is_loopback

    with _listen(args.host, args.port) as listener:
        port = listener.getsockname()[1]
        token = None if is_loopback(args.host) else secrets.token_urlsafe(24)
        with folders.temporary() as folder:
            app = _make(args, Access(args.host, port, token), folder)
            with ExitStack() as stack:
                stack.callback(_wait, app, folder)
                _serve(app, listener, args.no_browser)
    return 0


def _make(args: argparse.Namespace, access: Any, folder: Path) -> App:
    """The app, with the file of the command line opened."""
    from .app import App
    from .media import kind_of
    from .projects import read_project
    from .schemas import ApiError

    options = {"dtype": args.dtype, "revision": args.revision, **cli.weights_key(args)}
    options["memory_policy"] = args.memory_policy
    app = App.make(access, folder, args.model, saves=_saves(args), **options)
    if args.file is not None:
        try:
            path, own = args.file.resolve(), app.sessions.new_folder()
            if path.suffix == ".zip":
                session = read_project(app.sessions, app.open, path, own)
            else:
                session = app.open(kind_of(path), path.name, path, own)
        except ApiError as error:
            app.worker.shutdown()
            raise UsageError(f"{args.file}: {error.message}") from None
        app.opened = session.id
        session.stays = True
    app.engine.start()
    if app.opened is not None:
        app.worker.submit_always(app.engine.encode, app.sessions.get(app.opened))
    return app


def _saves(args: argparse.Namespace) -> Saves | None:
    """Where sessions are saved. UsageError where the folder of --data cannot be used."""
    from .saves import Saves

    if args.no_autosave:
        return None
    folder = args.data or folders.data_folder()
    try:
        return Saves(folder / "sessions", round(args.data_limit * 1e9))
    except OSError as error:
        text = f"{folder} cannot hold saved sessions ({error.strerror or error}): give --data FOLDER or --no-autosave"
        if args.data is not None:
            raise UsageError(text) from None
        print(f"mlx_sam2.app: sessions are not saved: {text}", file=sys.stderr)
        return None


def _serve(app: App, listener: socket.socket, no_browser: bool) -> None:
    """Serve until a signal ends it; Ctrl-C leaves as KeyboardInterrupt."""
    import uvicorn

    from .server import make_config

    host = "127.0.0.1" if app.access.token is None else socket.gethostname()
    host = app.access.host if app.access.host not in ("0.0.0.0", "::") else host
    shown = f"[{host}]" if ":" in host else host
    url = f"http://{shown}:{app.access.port}/" + (f"#token={app.access.token}" if app.access.token else "")

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            print(f"mlx_sam2.app: {url}  (Ctrl-C ends it)", flush=True)
            if not no_browser:
                threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()

        def handle_exit(self, sig: int, frame: Any) -> None:
            super().handle_exit(sig, frame)
            logging.getLogger("uvicorn.error").disabled = True  # requests that are cut off now are no faults
            app.end_streams()

    Server(make_config(app, PATIENCE)).run(sockets=[listener])


def _wait(app: App, folder: Path) -> None:
    """Wait for the current step, but not for a download."""
    for session in app.sessions.all():
        app.sessions.close(session.id)
    last = app.worker.submit_always(lambda: None)
    app.worker.shutdown(wait=False, cancel_futures=False)
    try:
        last.result(timeout=PATIENCE)
    except FutureTimeout:
        shutil.rmtree(folder, ignore_errors=True)
        sys.stderr.flush()
        os._exit(130)


def _end(signum: int, frame: Any) -> NoReturn:
    sys.exit(128 + signum)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    args = build_parser().parse_args(argv)
    logging.getLogger("PIL").addHandler(logging.NullHandler())
    signal.signal(signal.SIGTERM, _end)
    try:
        with cli.notes(PROG):
            return _run(args)
    except (UsageError, OSError) as error:
        return cli.fail(PROG, error)
    except KeyboardInterrupt:
        return 130
