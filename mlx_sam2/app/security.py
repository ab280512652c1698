"""Checks of Host, Origin and token before anything else sees a request, and headers of every answer.

A page of a stranger can make a browser send requests to 127.0.0.1. Its name may even be made to resolve to 127.0.0.1
(DNS rebinding), so that the browser takes both for the same site: the Host header gives that away. Requests from
another origin carry Origin or Sec-Fetch-Site: those are refused, reading ones too.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import re
import socket
import time
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
BODY_BYTES = 8 << 20  # of a request that is no upload
DRAIN_BYTES, DRAIN_SECONDS = 64 << 20, 2.0  # that a refused body is still read
UPLOADS = re.compile(r"/api/(sessions|projects|sessions/[^/]+/import)")  # they count for themselves

CONTENT_POLICY = (
    "default-src 'self'; img-src 'self' blob: data:; media-src 'self'; object-src 'none'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": CONTENT_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def is_loopback(host: str) -> bool:
    """Whether a server bound to `host` can be reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True)
class Access:
    """Where the server listens, and the token that it asks for (None: for none)."""

    host: str
    port: int
    token: str | None = None

    @property
    def cookie(self) -> str:
        return f"mlx_sam2_{self.port}"  # cookies know no ports: two apps shall not take each other's

    def knows_host(self, value: str | None) -> bool:
        """Whether the Host header is one of ours; one made of an address cannot come from a rebound name."""
        name, port = split_host(value or "")
        if port != self.port or not name:
            return False
        if name in LOOPBACK or name == self.host.lower():
            return True
        if self.token is None:
            return False
        try:
            ipaddress.ip_address(name)
        except ValueError:
            own = socket.gethostname().lower()
            return name in (own, f"{own.removesuffix('.local')}.local")
        return True

    def knows_token(self, given: str | None) -> bool:
        """Whether the token is right, in a time that does not tell how much of it is."""
        return self.token is None or hmac.compare_digest((given or "").encode(), self.token.encode())


def split_host(value: str) -> tuple[str, int | None]:
    """Name and port of a Host header, the name in lower case and without the brackets of IPv6."""
    name, colon, port = value.strip().lower().rpartition(":")
    if not colon or value.endswith("]"):
        name, port = value.strip().lower(), "80"
    number = int(port) if port.isascii() and port.isdecimal() and len(port) < 6 else None
    return name.removeprefix("[").removesuffix("]"), number


class Guard:
    """ASGI middleware around the whole app."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self.app = app
        self.access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                answered = MutableHeaders(raw=message.setdefault("headers", []))
                for name, value in HEADERS.items():
                    answered.setdefault(name, value)
            await send(message)

        refusal = self._refusal(scope, headers)
        if refusal is not None:
            status, code, text = refusal
            answer = JSONResponse({"error": {"code": code, "message": text}}, status, {"Connection": "close"})
            if status == 413:
                await _drain(receive)
            await answer(scope, receive, send_with_headers)
            return
        limited = receive if UPLOADS.fullmatch(scope["path"]) else _limited(receive, BODY_BYTES)
        await self.app(scope, limited, send_with_headers)

    def _refusal(self, scope: Scope, headers: Headers) -> tuple[int, str, str] | None:
        """Status, code and line for a request that is not let in."""
        host = headers.get("host")
        if not self.access.knows_host(host):
            return 403, "forbidden", "this address is not one of the app's; use the one that it printed"
        origin = headers.get("origin")
        if origin is not None and origin.lower() not in (f"http://{host}".lower(), f"https://{host}".lower()):
            return 403, "forbidden", "this request comes from another site"
        is_visit = scope["method"] == "GET" and scope["path"] == "/" and headers.get("sec-fetch-dest") == "document"
        if headers.get("sec-fetch-site", "none") not in ("same-origin", "none") and not is_visit:
            return 403, "forbidden", "this request comes from another site"
        if scope["path"].startswith("/api/") and scope["path"] != "/api/login" and not self._has_token(headers):
            return 401, "unauthorized", "a token is needed: open the address that the app printed, with its #token="
        length = headers.get("content-length", "0")
        if not UPLOADS.fullmatch(scope["path"]) and (
            not length.isdecimal() or len(length) > 12 or int(length) > BODY_BYTES
        ):
            return 413, "too_large", f"the body of this request may have {BODY_BYTES:,} bytes"
        return None

    def _has_token(self, headers: Headers) -> bool:
        if self.access.token is None:
            return True
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return self.access.knows_token(given)
        try:
            cookie: Any = SimpleCookie(headers.get("cookie", "")).get(self.access.cookie)
        except CookieError:
            return False
        return cookie is not None and self.access.knows_token(cookie.value)


async def _drain(receive: Receive) -> None:
    """Read what is still under way, within limits: a client that is cut off while it sends may never see the answer."""
    end = time.monotonic() + DRAIN_SECONDS
    total, more = 0, True
    while more and total < DRAIN_BYTES and (left := end - time.monotonic()) > 0:
        try:
            message = await asyncio.wait_for(receive(), left)
        except asyncio.TimeoutError:  # not TimeoutError: another class before Python 3.11
            return
        total += len(message.get("body", b""))
        more = message["type"] == "http.request" and message.get("more_body", False)


def _limited(receive: Receive, most: int) -> Receive:
    """`receive`, cut off after `most` bytes: a body may come in pieces, without saying its length."""
    total = 0

    async def limited() -> Message:
        nonlocal total
        message = await receive()
        total += len(message.get("body", b""))
        if total > most:
            if message.get("more_body"):
                await _drain(receive)
            raise HTTPException(413, f"the body of this request may have {most:,} bytes")
        return message

    return limited
