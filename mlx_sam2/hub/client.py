"""Shared by download and publish: retries, and the Hub client's errors as one line."""

from __future__ import annotations

import errno
import importlib.util
import io
import logging
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from ..text import one_line, shorten

_T = TypeVar("_T")

PAUSES = (1.0, 4.0)  # seconds before the second and the third try
LONGEST_WAIT = 60.0  # a longer wait is reported to the user instead


class HubError(RuntimeError):
    """A checkpoint cannot be found, downloaded or published. One line that says what to do."""


def start_client(token: str | bool | None) -> None:
    """Import the client, which reads its settings while it is imported, and check the token that it will send.

    Raises:
        HubError: a setting makes no sense.
    """
    try:
        import huggingface_hub.file_download
        import huggingface_hub.hf_api  # noqa: F401
        from huggingface_hub import get_token

        sent = token if isinstance(token, str) else None if token is False else get_token()
    except ValueError as error:
        why = redacted(error)
        raise HubError(f"huggingface_hub cannot start ({why}): check the HF_ variables of the environment") from None
    except OSError as error:
        raise HubError(
            f"cannot read the stored Hub token: {error.strerror} ({error.filename}); check HF_HOME"
        ) from None
    if sent and not re.fullmatch(r"[\x21-\x7e]+", sent):
        raise HubError("the Hub token holds characters that no token has: check token= and HF_TOKEN")


def endpoint() -> str:
    """The Hub's address without a password, for messages."""
    from huggingface_hub import constants

    return re.sub(r"//[^/@]*@", "//", constants.ENDPOINT)


def client_errors() -> tuple[type[Exception], ...]:
    """The errors of a request: OSError, and the base class of the HTTP library that huggingface_hub uses."""
    from huggingface_hub.errors import HfHubHTTPError

    return OSError, HfHubHTTPError.__bases__[0]


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error, and those that it was raised from."""
    while error is not None:
        yield error
        error = error.__cause__


def status_of(error: BaseException) -> int | None:
    """The HTTP status that an error, or one that it was raised from, reports."""
    return next((s for e in causes(error) if (s := getattr(response_of(e), "status_code", None))), None)


def response_of(error: BaseException | None) -> object | None:
    """The response that a request's error carries."""
    return getattr(error, "response", None)


def retry_after(error: BaseException) -> float | None:
    """Seconds that the server asks to wait, from its Retry-After header."""
    for cause in causes(error):
        text = str(getattr(response_of(cause), "headers", {}).get("Retry-After", ""))
        if text.isdigit():
            return float(text[:9])
    return None


def patiently(action: Callable[[], _T]) -> _T:
    """Call ``action`` up to three times: a Hub that fails (5xx), or asks to slow down (429), may recover."""
    for pause in PAUSES:
        try:
            return action()
        except client_errors() as error:
            status = status_of(error) or 0
            wait = max(pause, retry_after(error) or 0.0)
            if not (status in (408, 429) or status >= 500) or wait > LONGEST_WAIT:
                raise
        _tell(f"the Hub answers HTTP {status}: trying again in {wait:.0f} s")
        time.sleep(wait)
    return action()


def _on_a_terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()


def _tell(text: str) -> None:
    """Print a remark on a terminal, where progress bars are shown too."""
    if _on_a_terminal():
        from tqdm import tqdm

        tqdm.write(text, file=sys.stderr)  # above the bars


@contextmanager
def calm() -> Iterator[None]:
    """Hide the client's log of retries, and its progress bars where stderr is no terminal.

    A terminal shows one line for the first retry of a call. A long wait that the Hub asks for is always reported.
    """
    from huggingface_hub import constants
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
    from huggingface_hub.utils import logging as client_logging  # importing it makes the handlers

    handlers = list(client_logging.get_logger("huggingface_hub").handlers)
    retries = _Retries()
    asked_for = constants.HF_HUB_DISABLE_PROGRESS_BARS is not None  # the environment decides
    hide = not (_on_a_terminal() or asked_for or are_progress_bars_disabled())
    if hide:
        disable_progress_bars()
    for handler in handlers:
        handler.addFilter(retries)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Not enough free disk space", UserWarning)  # the error says it
            yield
    finally:
        for handler in handlers:
            handler.removeFilter(retries)
        if hide:
            enable_progress_bars()


class _Retries(logging.Filter):
    """Removes the client's warnings from its log."""

    told = False

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno != logging.WARNING:
            return True
        text = record.getMessage()
        wait = re.search(r"Waiting (\d+)", text)
        if wait and int(wait[1]) > LONGEST_WAIT:
            print(f"the Hub asks to wait {wait[1]} s (HTTP 429); Ctrl-C gives up", file=sys.stderr or io.StringIO())
        elif not self.told and re.search(r"Retrying|Waiting|Trying to resume", text):
            self.told = True
            _tell("the connection to the Hub failed: trying again")
        return False


def redacted(text: object, secrets: tuple[str | bool | None, ...] = ()) -> str:
    """Foreign text on one short line, without control characters; tokens in it are replaced."""
    plain = one_line(re.sub(r"[^\x20-\x7e]+", " ", str(text)))
    for secret in secrets:
        if isinstance(secret, str) and secret:
            plain = plain.replace(secret, "<token>")
    plain = re.sub(r"\b(hf|api_org)_\w{16,}|(?<=Bearer )\S+", "<token>", plain)
    return shorten(plain)


def explain_machine(error: BaseException) -> str | None:
    """What failed on this machine: the disk, permissions. None: the error is of another kind."""
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError

    for cause in causes(error):
        if isinstance(cause, HfHubHTTPError.__bases__[0]):
            return None  # a network error; its causes are errors of sockets
        if not isinstance(cause, OSError) or isinstance(cause, ConnectionError) or not cause.errno:
            continue
        if cause.errno in (errno.ENOSPC, errno.EDQUOT):
            return f"no space left for {constants.HF_HUB_CACHE}: free some, or set HF_HOME to a folder on a larger disk"
        return f"{cause.strerror} ({cause.filename or constants.HF_HUB_CACHE})"
    return None


def other_way(error: BaseException) -> str:
    """Advice for a failure of Xet storage, the newer of the Hub's two ways to move large files; else nothing."""
    from huggingface_hub import constants

    in_use = importlib.util.find_spec("hf_xet") and not getattr(constants, "HF_HUB_DISABLE_XET", False)
    if not in_use or type(error).__module__ != "builtins":  # hf_xet raises Python's own exceptions
        return ""
    return "; if it fails again, HF_HUB_DISABLE_XET=1 takes the older way"


def explain_status(error: BaseException) -> str | None:
    """A refusal that any request may meet: too many requests, a failing server. None: another status."""
    status, wait = status_of(error), retry_after(error)
    if status == 429:
        return f"the Hub limits requests (HTTP 429): run it again in {wait or 60:.0f} s, or log in with hf auth login"
    if status is not None and status >= 500:
        return f"the Hub fails at the moment (HTTP {status}): run it again later"
    return None
