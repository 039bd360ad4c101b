"""Usage to money, by the prices of genai-prices and the user's own."""

from __future__ import annotations

import logging
import re
import time
from collections import Counter
from datetime import UTC, datetime
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final

from langchain_llmops.core.catalogue import Catalogue, Listing
from langchain_llmops.core.errors import ConfigurationError
from langchain_llmops.core.model_names import ModelNames
from langchain_llmops.core.price_table import check_table, rates_from, read_table
from langchain_llmops.core.rates import Rates
from langchain_llmops.core.types import Money, Unpriced, Usage

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

__all__ = ["PriceBook"]

_log = logging.getLogger(__name__)

MEMO_ENTRIES: Final = 4096
NAME_LENGTH: Final = 256
UNPRICED_NAMES: Final = 1000
OTHERS: Final = "(other models)"
DAY_S: Final = 86_400
_DATE: Final = re.compile(r"[-@](\d{4}-\d{2}-\d{2}|\d{8}|\d{4})$")

_Key = tuple[str, str | None, str | None, int, int | None]
_Found = Rates | Listing | None


class PriceBook:
    """What tokens cost, by model, provider, service tier and day.

    Args:
        overrides: prices that win over the built-in ones, by model name (`name` or `provider:name`):
            `{"my-model": {"input_mtok": 1.5, "output_mtok": 6, "cache_read_mtok": 0.15}}`, dollars per million tokens.
            `"flex"`, `"priority"`, `"batch"` and `"fast"` may hold such an object each for that service tier.
        clock: Unix seconds.

    A model without a price is `Unpriced`, counted in `unpriced` and warned about once; it is never 0. Whose price
    counts, in this order: an override; the provider's own list; for a runner of local models (Ollama, vLLM, …) none;
    the provider that the name itself carries (`azure/gpt-4o`); and the maker's list, when no provider is known, when it
    is `openai` (LangChain's client for every compatible endpoint), or when the model's maker alone can serve it, so
    that whatever gateway is in between passes the maker's price on. A name without any of these is unpriced.
    """

    def __init__(
        self, overrides: Mapping[str, Mapping[str, Any]] | None = None, *, clock: Callable[[], float] = time.time
    ) -> None:
        shipped = files("langchain_llmops.core").joinpath("data/prices.json").read_text("utf-8")
        self._own = read_table(shipped, "built-in prices") | check_table(overrides or {}, "price overrides")
        self._catalogue = Catalogue()
        self._names = ModelNames(self._catalogue.providers)
        self._clock = clock
        self._memo: dict[_Key, _Found] = {}
        self.unpriced: Counter[str] = Counter()

    @classmethod
    def from_file(cls, path: Path | None) -> PriceBook:
        """A book with the overrides of a JSON file; raises `ConfigurationError` naming the file and the entry."""
        if path is None:
            return cls()
        try:
            text = path.read_text("utf-8")
        except UnicodeDecodeError as error:
            raise ConfigurationError(f"LLMOPS_PRICES_FILE {path}: not UTF-8 text") from error
        except OSError as error:
            raise ConfigurationError(f"LLMOPS_PRICES_FILE: cannot read {path}: {error.strerror}") from error
        book = cls()
        book._own |= read_table(text, f"LLMOPS_PRICES_FILE {path}")
        return book

    def price(
        self,
        model: str,
        usage: Usage,
        *,
        provider: str | None = None,
        at: datetime | None = None,
        tier: str | None = None,
    ) -> Money | Unpriced:
        """The price of one call at the moment `at` (now when None; a moment without a zone is UTC).

        `tier` is `flex`, `priority`, `batch` or `fast`; where the provider lists no price for it, or it is another
        word, the call costs as without one.
        """
        rates = self.rates(model, provider=provider, at=at, tier=tier)
        if rates is None:
            self._count_unpriced(model[:NAME_LENGTH])
            return Unpriced(model)
        return rates.cost(usage)

    def rates(
        self, model: str, *, provider: str | None = None, at: datetime | None = None, tier: str | None = None
    ) -> Rates | None:
        """What each kind of token costs; None when no price is known. Remembered by day."""
        seconds = self._clock() if at is None else _seconds(at)
        key = (model, provider, tier, int(seconds // DAY_S), None)
        try:
            found = self._memo[key]
        except KeyError:  # not remembered yet
            found = self._remember(key, self._find(model, provider, tier, seconds))
        return found if not isinstance(found, Listing) else self._by_the_minute(found, key, seconds)

    def _by_the_minute(self, listing: Listing, key: _Key, seconds: float) -> Rates | None:
        minute = (*key[:4], int(seconds // 60))
        found = self._memo.get(minute)
        if not isinstance(found, Rates):
            found = listing.rates(_moment(seconds), key[2])
            self._remember(minute, found)
        return found

    def _remember(self, key: _Key, found: _Found) -> _Found:
        if len(self._memo) >= MEMO_ENTRIES:
            self._memo.clear()
        self._memo[key] = found
        return found

    def _find(self, model: str, provider: str | None, tier: str | None, seconds: float) -> _Found:
        if len(model) > NAME_LENGTH:
            return None
        named, name = self._names.split(model, provider)
        for candidate in _override_names(model, named, name):
            if candidate in self._own:
                return rates_from(self._own[candidate], tier)
        listing = self._listing(model, provider, named, name)
        return listing if listing is None or listing.by_the_hour else listing.rates(_moment(seconds), tier)

    def _listing(self, model: str, provider: str | None, named: str | None, name: str) -> Listing | None:
        served_by = self._names.provider(provider)
        if self._names.is_local(provider) or self._names.is_local(named):
            return None
        found = self._catalogue.find(served_by, model) or self._catalogue.find(named, name)
        by_maker = served_by in (None, "openai") or self._names.is_closed(name)
        return found or (self._catalogue.find_by_maker(name) if by_maker else None)

    def _count_unpriced(self, model: str) -> None:
        if model not in self.unpriced and len(self.unpriced) >= UNPRICED_NAMES:
            model = OTHERS
        self.unpriced[model] += 1
        if self.unpriced[model] == 1:
            _log.warning(
                "no price is known for model %r: its calls are counted as unpriced; add it to LLMOPS_PRICES_FILE", model
            )


def _override_names(model: str, provider: str | None, name: str) -> tuple[str, ...]:
    plain = _DATE.sub("", name)
    return model, f"{provider}:{name}", name, f"{provider}:{plain}", plain


def _seconds(moment: datetime) -> float:
    return (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
