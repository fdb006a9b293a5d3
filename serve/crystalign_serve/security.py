"""Who may ask: the API key, the names of this service, and no web page but its own.

A browser sends requests to `localhost` on behalf of any page that its user has open. Three things
keep such pages out: the `Host` must be a name of this service (a page that has its own name resolve
to 127.0.0.1 fails here), the `Origin` must be the service's own, and `Sec-Fetch-Site`, where the
browser sends it, must not name another site.
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
"""What needs no key: the page, its parts, the description of the API, and whether the service runs."""
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
    """The rules of one service; by default any name will do and no key is needed."""

    key_sha256: str | None = None
    """SHA-256 of the API key, hexadecimal; None if none is needed."""
    hosts: tuple[str, ...] | None = None
    """Names, without port, by which the service may be called; None means any."""
    any_address: bool = False
    """Whether it may also be called by any IP address, which no web page can pretend to be."""

    def knows(self, host: str) -> bool:
        """Whether a `Host` header, with or without port, names this service."""
        name = _name(host)
        if self.hosts is None or name in self.hosts:
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return self.any_address or (address.is_loopback and bool(set(LOOPBACK_NAMES) & set(self.hosts)))

    def opens(self, key: str) -> bool:
        """Whether this is the key; the time it takes does not depend on the key."""
        given = hashlib.sha256(key.encode("utf-8", errors="surrogateescape")).hexdigest()
        return self.key_sha256 is None or hmac.compare_digest(given, self.key_sha256)


def access_of(host: str, key_file: str | None, allowed_hosts: Sequence[str]) -> Access:
    """The rules of a service that listens on `host`.

    Raises:
        ConfigError: it listens beyond this machine without a key, or the key cannot be used.
    """
    local = is_loopback(host)
    if not local and key_file is None:
        raise ConfigError(
            f"listening on {host} lets other machines ask, which needs an API key: give --api-key-file FILE, for "
            "example made by `python -c 'import secrets; print(secrets.token_urlsafe(32))' > FILE`, or listen on "
            "127.0.0.1"
        )
    names = tuple(dict.fromkeys([*LOOPBACK_NAMES, *(_name(name) for name in allowed_hosts)]))
    digest = None if key_file is None else hashlib.sha256(read_key(key_file).encode()).hexdigest()
    return Access(digest, names, any_address=not local)


def read_key(path: str) -> str:
    """The API key in a file, without white space around it.

    Raises:
        ConfigError: no such file, or what it holds is no key.
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
            f"{path} holds no API key: it must be one word of {LEAST_KEY_LENGTH} to {MOST_KEY_LENGTH} characters"
        )
    return key


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address to listen on."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Guard:
    """Refuses who may not ask, and tells browsers what answers may be used for."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self.app = app
        self.access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check, pass on, and add the headers."""
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
        """Status and reason; None if the request is welcome."""
        hosts = _all(scope, b"host")
        if self.access.hosts is not None and (len(hosts) != 1 or not self.access.knows(hosts[0])):
            named = repr(hosts[0][:100]) if hosts else "nothing"
            return 403, f"this service is not called {named}; if it should be, start it with --allowed-host NAME"
        path, host = scope["path"], hosts[0] if hosts else ""
        costly = path.startswith("/api/") or scope["method"] not in {"GET", "HEAD", "OPTIONS"}
        if costly and self._is_foreign(scope, host):
            return 403, "a page of another site may not use this service; open the service's own page"
        if self.access.key_sha256 is None or path in OPEN_PATHS or path.startswith(OPEN_FOLDERS):
            return None
        keys = _keys(scope)
        if any(self.access.opens(key) for key in keys):
            return None
        told = "this API key is not the right one" if keys else "this service asks for an API key"
        return 401, f"{told}; send it as `Authorization: Bearer KEY`"

    def _is_foreign(self, scope: Scope, host: str) -> bool:
        """Whether a browser says that a page of another origin sends this."""
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
    """The name of `name:port`, `[address]:port`, an address, or an origin; empty where there is none."""
    if "@" in host:  # browsers send none, and readers disagree on what it means
        return ""
    if host.count(":") > 1 and "[" not in host and "//" not in host:
        host = f"[{host}]"
    try:
        return (urlsplit(host if "//" in host else f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return ""


def _netloc(origin: str) -> tuple[str, int | None] | None:
    """Name and port, which is None for the usual one; None of `null` and of what cannot be read."""
    try:
        parts = urlsplit(origin)
        port = parts.port
    except ValueError:
        return None
    if not parts.hostname or "@" in origin:
        return None
    return parts.hostname.rstrip("."), None if port in {80, 443} else port
