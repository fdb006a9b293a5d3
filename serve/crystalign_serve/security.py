"""Access control: API key, host names, and protection against other web pages.

A browser sends requests to `localhost` for any page that the user has open. Three checks refuse such
requests: `Host` must be a name of this service (this stops DNS rebinding), `Origin` must be the service's
own, and `Sec-Fetch-Site`, if the browser sends it, must not name another site.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from crystalign.errors import ConfigError
from crystalign_serve.errors import discard, problem

LEAST_KEY_LENGTH = 16
MOST_KEY_LENGTH = 4096
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
OPEN_PATHS = frozenset({"/", "/live", "/ready", "/docs", "/openapi.json"})
"""Paths that need no API key: the web page with its assets, the API documentation, and the health probes."""
OPEN_FOLDERS = ("/assets/", "/docs/")
_NOTHING = "default-src 'none'; frame-ancestors 'none'"
_PAGE = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
_HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}


class Access(NamedTuple):
    """Access rules of a service. By default it accepts any host name and needs no key."""

    key_sha256: str | None = None
    """SHA-256 of the API key, hexadecimal; None if no key is needed."""
    hosts: tuple[str, ...] | None = None
    """Accepted host names, without port; None accepts any."""
    any_address: bool = False
    """Whether any IP address is accepted as host. This is safe, because DNS rebinding needs a name."""

    def knows(self, host: str) -> bool:
        """Whether a `Host` header, with or without port, is accepted."""
        name = _name(host)
        if self.hosts is None or name in self.hosts:
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return self.any_address or (address.is_loopback and bool(set(LOOPBACK_NAMES) & set(self.hosts)))

    def opens(self, key: str) -> bool:
        """Whether this is the API key, compared in constant time."""
        given = hashlib.sha256(key.encode("utf-8", errors="surrogateescape")).hexdigest()
        return self.key_sha256 is None or hmac.compare_digest(given, self.key_sha256)


def access_of(host: str, key_file: str | None, allowed_hosts: Sequence[str]) -> Access:
    """The access rules of a service that listens on `host`.

    Raises:
        ConfigError: other machines can reach it and there is no key, or the key file cannot be used.
    """
    local = is_loopback(host)
    if not local and key_file is None:
        raise ConfigError(
            f"other machines can reach {host}, which requires an API key: give --api-key-file FILE, for "
            "example made by `python -c 'import secrets; print(secrets.token_urlsafe(32))' > FILE`, or listen on "
            "127.0.0.1"
        )
    names = tuple(dict.fromkeys([*LOOPBACK_NAMES, *(_name(name) for name in allowed_hosts)]))
    digest = None if key_file is None else hashlib.sha256(read_key(key_file).encode()).hexdigest()
    return Access(digest, names, any_address=not local)


def read_key(path: str) -> str:
    """Read the API key from a file and strip whitespace.

    Raises:
        ConfigError: the file cannot be read, or its content is not a valid key.
    """
    try:
        with Path(path).open("rb") as file:
            key = file.read(MOST_KEY_LENGTH + 2).decode("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"cannot read the API key in {path}: {getattr(error, 'strerror', None) or 'it is not ASCII'}"
        ) from error
    if not LEAST_KEY_LENGTH <= len(key) <= MOST_KEY_LENGTH or not key.isprintable() or " " in key:
        raise ConfigError(
            f"{path} does not hold a valid API key: a key is one word of {LEAST_KEY_LENGTH} to {MOST_KEY_LENGTH} "
            "characters"
        )
    return key


def is_loopback(host: str) -> bool:
    """Whether an address can be reached from this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Guard:
    """ASGI middleware: apply the access rules and add security headers to responses."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self.app = app
        self.access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse the request, or pass it on and add the headers to the response."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                html = headers.get("content-type", "").startswith("text/html")
                for name, value in {**_HEADERS, "content-security-policy": _PAGE if html else _NOTHING}.items():
                    headers[name] = value
            await send(message)

        refusal = self._refusal(scope)
        if refusal is None:
            await self.app(scope, receive, with_headers)
            return
        status, detail = refusal
        await discard(receive)
        answer = problem(status, detail)
        if status == 401:
            answer.headers["www-authenticate"] = "Bearer"
        await answer(scope, receive, with_headers)

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        """Status and reason of a refusal; None if the request is allowed."""
        hosts = _all(scope, b"host")
        if self.access.hosts is not None and (len(hosts) != 1 or not self.access.knows(hosts[0])):
            named = repr(hosts[0][:100]) if hosts else "(none)"
            return 403, f"unknown host name {named}; to allow a name, start the service with --allowed-host NAME"
        path, host = scope["path"], hosts[0] if hosts else ""
        costly = path.startswith("/api/") or scope["method"] not in {"GET", "HEAD", "OPTIONS"}
        if costly and self._is_foreign(scope, host):
            return 403, "requests from a page of another site are refused; open the service's own page"
        if self.access.key_sha256 is None or path in OPEN_PATHS or path.startswith(OPEN_FOLDERS):
            return None
        keys = _keys(scope)
        if any(self.access.opens(key) for key in keys):
            return None
        reason = "this API key is not the right one" if keys else "this service requires an API key"
        return 401, f"{reason}; send it as `Authorization: Bearer KEY`"

    def _is_foreign(self, scope: Scope, host: str) -> bool:
        """Whether the browser's headers show that a page of another origin sent the request."""
        if any(site not in {"same-origin", "none"} for site in _all(scope, b"sec-fetch-site")):
            return True
        listed = set(self.access.hosts or ()) - set(LOOPBACK_NAMES)
        own = _netloc(f"//{host}")
        return any((own is None or _netloc(o) != own) and _name(o) not in listed for o in _all(scope, b"origin"))


def _all(scope: Scope, name: bytes) -> list[str]:
    return [value.decode("latin-1").strip() for key, value in scope["headers"] if key == name]


def _keys(scope: Scope) -> list[str]:
    bearer = [v[7:].strip() for v in _all(scope, b"authorization") if v[:7].lower() == "bearer "]
    return bearer + _all(scope, b"x-api-key")


def _name(host: str) -> str:
    """Host name of `name:port`, `[address]:port`, an address or an origin; empty if it cannot be parsed."""
    if "@" in host:  # browsers never send it, and URL parsers disagree about it
        return ""
    if host.count(":") > 1 and "[" not in host and "//" not in host:
        host = f"[{host}]"
    try:
        return (urlsplit(host if "//" in host else f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return ""


def _netloc(origin: str) -> tuple[str, int | None] | None:
    """Host name and port of an origin (port None for 80 and 443); None for `null` and what cannot be parsed."""
    try:
        parts = urlsplit(origin)
        port = parts.port
    except ValueError:
        return None
    if not parts.hostname or "@" in origin:
        return None
    return parts.hostname.rstrip("."), None if port in {80, 443} else port
