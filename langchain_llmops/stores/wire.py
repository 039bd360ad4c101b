"""What is said to one Redis server and how its answers are read (RESP 2), for the two kinds of connection."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import hiredis
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    ClusterDownError,
    ConnectionError,  # noqa: A004 - the driver's, which the errors of both kinds of client are
    InvalidResponse,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
    TryAgainError,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

__all__ = ["EXEC", "MULTI", "NOTHING_YET", "Command", "Endpoint", "packed", "raised", "reader"]

Command = tuple[bytes | str | int, ...]

NOTHING_YET: Final = object()
MULTI: Final[Command] = ("MULTI",)
EXEC: Final[Command] = ("EXEC",)  # what was queued before it is answered in its answer, errors too
CONNECT_S: Final = 0.25
KINDS: Final[Mapping[str, type[Exception]]] = {
    "CLUSTERDOWN": ClusterDownError,
    "LOADING": BusyLoadingError,
    "NOAUTH": AuthenticationError,
    "NOPERM": NoPermissionError,
    "NOSCRIPT": NoScriptError,
    "OOM": OutOfMemoryError,
    "READONLY": ReadOnlyError,
    "TRYAGAIN": TryAgainError,
    "WRONGPASS": AuthenticationError,
}
REFUSED: Final = ("Client sent AUTH", "invalid password", "AUTH <password> called without")
FULL: Final = "max number of clients reached"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A server and how to present oneself to it; with `tls`, these are its options.

    Connecting has `CONNECT_S` even where an answer must come sooner: it is done once for many commands.
    """

    host: str
    port: int
    database: int
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    name: str = ""
    tls: Mapping[str, str] | None = field(default=None, repr=False)

    def greeting(self) -> list[Command]:
        """The first commands of a connection."""
        said: list[Command] = [("CLIENT", "SETNAME", self.name)]
        if self.user or self.password:
            login = (self.user, self.password or "") if self.user else (self.password or "",)
            said.insert(0, ("AUTH", *login))
        return [*said, ("SELECT", self.database)] if self.database else said

    def context(self) -> ssl.SSLContext | None:
        """What TLS needs, or None without it."""
        options = self.tls
        if options is None:
            return None
        context = ssl.create_default_context(cafile=options.get("ssl_ca_certs"))
        required = options.get("ssl_cert_reqs", "required").lower()
        unchecked = options.get("ssl_check_hostname", "true").lower() in ("false", "0", "no", "f", "n")
        if required != "required" or unchecked:
            context.check_hostname = False
        if required != "required":
            context.verify_mode = ssl.CERT_OPTIONAL if required == "optional" else ssl.CERT_NONE
        if "ssl_certfile" in options:
            key, secret = options.get("ssl_keyfile"), options.get("ssl_keyfile_password")
            context.load_cert_chain(options["ssl_certfile"], key, secret)
        return context


def packed(commands: Iterable[Command]) -> bytes:
    """Commands as they are sent; raises `ValueError` or `TypeError` on what cannot be."""
    return b"".join([hiredis.pack_command(command) for command in commands])  # type: ignore[arg-type] # typed as a tuple of one


def reader() -> hiredis.Reader:
    """Takes bytes in, gives answers out, `NOTHING_YET` where one is not whole; an error is an answer too."""
    return hiredis.Reader(protocolError=InvalidResponse, replyError=_error, notEnoughData=NOTHING_YET)


def raised(answers: Sequence[Any]) -> Sequence[Any]:
    """The answers, unless one of them is an error: that is raised."""
    for answer in answers:
        if isinstance(answer, Exception):
            raise answer
    return answers


def _error(text: str) -> Exception:
    kind, _, rest = text.partition(" ")
    if kind in KINDS:
        return KINDS[kind](rest if kind != "NOAUTH" else text)
    if any(words in text for words in REFUSED):
        return AuthenticationError(text)
    return ConnectionError(text) if FULL in text else ResponseError(text)
