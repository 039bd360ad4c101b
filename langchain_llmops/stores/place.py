"""Where a store is: its URL taken apart, and errors that name the setting and the fix but never a secret."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl, quote, quote_plus, unquote

from langchain_llmops.core.errors import ConfigurationError, StoreError
from langchain_llmops.core.redaction import redact

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

__all__ = ["Place", "StoreUrl"]

SHORTEST_SECRET: Final = 3
LONGEST_REASON: Final = 200
# query options that may be shown; the value of any other could be a key, a token or a password
SHOWN_OPTIONS: Final = frozenset(
    (
        *("allow_http", "answer_timeout_s", "db", "endpoint", "host", "max_connections", "port", "region", "sslmode"),
        "synchronous",
    )
)


@dataclass(frozen=True, slots=True)
class StoreUrl:
    """A URL in parts, percent-decoded; `raw`, `user`, `password` and `options` are not for people to see."""

    scheme: str
    authority: str  # host[:port], several with commas
    path: str
    user: str | None = field(repr=False)
    password: str | None = field(repr=False)
    options: Mapping[str, str] = field(repr=False)
    raw: str = field(repr=False)

    @classmethod
    def parse(cls, url: str, setting: str, example: str) -> StoreUrl:
        """Take a URL with a server in it apart; errors do not repeat it, as what is malformed may be the password."""
        scheme, _, rest = url.partition("://")
        rest, _, query = rest.partition("?")
        login, at, rest = rest.rpartition("@")
        authority, slash, path = rest.partition("/")
        reason = None
        if any(mark in login for mark in "/#@") or "#" in rest or "#" in query or ("@" in query and not at):
            reason = "has '/', '?', '#' or '@' in its user or password, where they must be percent-encoded"
        elif not all(_is_port(server) for server in authority.split(",")):
            reason = "has a port that is no number"
        if reason:
            raise ConfigurationError(f"{setting}: the {scheme}:// URL {reason}; it must look like {example}")
        user, colon, password = login.partition(":")
        return cls(
            scheme=scheme.lower(),
            authority=authority,
            path=unquote(slash + path),
            user=unquote(user) or None,
            password=unquote(password) if colon else None,
            options=dict(parse_qsl(query, keep_blank_values=True)),
            raw=url,
        )

    @property
    def secrets(self) -> tuple[str, ...]:
        """Everything that must not be shown."""
        hidden = (value for name, value in self.options.items() if name not in SHOWN_OPTIONS)
        return tuple(value for value in (self.password, *hidden) if value)

    @property
    def shown(self) -> str:
        """The URL for people."""
        login = "***@" if self.user or self.password else ""
        options = "&".join(f"{name}={self._option(name)}" for name in self.options)
        return f"{self.scheme}://{login}{self.authority}{self.path}" + (f"?{options}" if options else "")

    def _option(self, name: str) -> str:
        return redact(self.options[name]) if name in SHOWN_OPTIONS else "***"


@dataclass(frozen=True, slots=True)
class Place:
    """What an error says about a store.

    Args:
        setting: the variable or argument that named it.
        what, where: as in "PostgreSQL at 127.0.0.1:5432".
        secrets: what a driver's text must not carry outside.
    """

    setting: str
    what: str
    where: str
    secrets: tuple[str, ...] = field(default=(), repr=False)

    def fault(self, kind: type[Exception], text: str, error: BaseException | None = None) -> Exception:
        """An error of ours with one clear line, chained to the driver's when that one carries no secret."""
        ours = kind(f"{self.setting}: {text}")
        ours.__cause__ = None if error is None else self._cause(error)
        ours.__suppress_context__ = True
        return ours

    def reason(self, error: BaseException) -> str:
        """The driver's words on one line, without secrets, cut to a readable length."""
        line = " ".join(str(error).split()) or type(error).__name__
        return redact(self._masked(line))[:LONGEST_REASON]

    @contextmanager
    def typed(self, errors: tuple[type[BaseException], ...], say: Callable[[Any], Exception]) -> Iterator[None]:
        """Raise what `say` makes of a driver's error, outside its handler so that it is no longer part of the trace."""
        try:
            yield
        except errors as error:
            fault = say(error)
        else:
            return
        raise fault

    def _cause(self, error: BaseException) -> BaseException:
        texts = "\n".join(f"{link} {link!r}" for link in _chain(error))
        if redact(texts) == texts == self._masked(texts):
            return error
        return StoreError(f"{type(error).__name__}: {self.reason(error)}")

    def _masked(self, text: str) -> str:
        for secret in self.secrets:
            if len(secret) >= SHORTEST_SECRET:
                for form in (secret, quote(secret), quote(secret, safe=""), quote_plus(secret), repr(secret)[1:-1]):
                    text = text.replace(form, "***")
        return text


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _is_port(server: str) -> bool:
    host, colon, port = server.rpartition(":")
    return not colon or server.endswith("]") or bool(host and port.isdigit() and int(port) <= 0xFFFF)  # noqa: PLR2004 - the highest port there is
