"""The table of prices worked out by hand: through the handler, through the wrapper of embeddings, and as printed."""

from __future__ import annotations

import ast
import json
import operator
from dataclasses import replace
from decimal import Decimal

import pytest
import typer
from langchain_core.embeddings import Embeddings
from langchain_core.language_models import BaseLLM
from langchain_core.outputs import LLMResult
from typer.testing import CliRunner

from langchain_llmops.cli.prices import prices
from langchain_llmops.telemetry import price_check
from langchain_llmops.telemetry.embeddings import ObservedEmbeddings
from langchain_llmops.telemetry.handler import OpsCallbackHandler
from langchain_llmops.telemetry.price_check import PriceCase, price_cases
from tests.support.models import ScriptedModel

CASES = price_cases()
NANO = Decimal("1e-9")
OPERATORS = {ast.Add: operator.add, ast.Mult: operator.mul, ast.Div: operator.truediv}


def worked_out(arithmetic: str) -> Decimal:
    def value(node: ast.expr) -> Decimal:
        if isinstance(node, ast.BinOp):
            return OPERATORS[type(node.op)](value(node.left), value(node.right))
        return Decimal(str(ast.literal_eval(node)))

    return value(ast.parse(arithmetic, mode="eval").body)


def same(one: Decimal | None, other: Decimal | None) -> bool:
    return one == other if one is None or other is None else abs(one - other) <= NANO


class TextModel(BaseLLM):
    """A text model whose provider reports `llm_output`, as langchain-openai's does."""

    result: LLMResult
    model_name: str

    @property
    def _llm_type(self) -> str:
        return "text"

    def _generate(self, prompts, stop=None, run_manager=None, **kwargs):
        return self.result


def asked(case: PriceCase):
    if case.llm_output is not None:
        return TextModel(result=case.result(), model_name=case.model)
    message = case.result().generations[0][0].message
    return ScriptedModel(message, model_name=case.model, provider=case.provider or "")


class Silent(Embeddings):
    """Embeds, and tells nobody about tokens."""

    def embed_documents(self, texts):
        return [[1.0] for _ in texts]

    def embed_query(self, text):
        return [1.0]


class Fixed:
    """Counts what it is told to."""

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens

    def count(self, text: str) -> int:
        return self.tokens


def recorded(case: PriceCase, bus, told, clock):
    clock.now = case.at.timestamp()
    if case.embedded is not None:
        ObservedEmbeddings(
            Silent(),
            bus,
            provider=case.provider,
            model=case.model,
            prices=case.book,
            counter=Fixed(case.embedded),
        ).embed_query("x")
    else:
        handler = OpsCallbackHandler(bus, prices=case.book, counter=Fixed(0), clock=clock, timer=clock)
        metadata = {} if case.provider is None or case.llm_output is None else {"ls_provider": case.provider}
        asked(case).invoke("hi", {"callbacks": [handler], "metadata": metadata})
    return told.only


def test_the_table_is_as_long_as_promised() -> None:
    assert len(CASES) >= 60
    assert len({case.name for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_table_is_its_own_arithmetic(case) -> None:
    for arithmetic, dollars in ((case.sum, case.usd), (case.saved_sum, case.saved_usd)):
        assert (worked_out(arithmetic) if arithmetic else None) == dollars


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_case_costs_what_the_hand_says(case) -> None:
    charged, saved = case.priced()
    assert same(charged, case.usd)
    assert same(saved, case.saved_usd)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_case_is_recorded_as_the_hand_says(case, bus, told, clock) -> None:
    record = recorded(case, bus, told, clock)
    assert same(record.money.total_usd if record.money is not None else None, case.usd)
    assert same(record.saved_usd, case.saved_usd)
    assert (record.unpriced, record.clamped) == (case.usd is None, case.clamped)


def run(*arguments: str):
    app = typer.Typer()
    app.command()(prices)
    return CliRunner().invoke(app, arguments)


def test_the_command_prints_every_case_and_the_largest_difference() -> None:
    done = run("--check")
    assert done.exit_code == 0
    assert done.output.rstrip().splitlines()[-1] == f"{len(CASES)} cases, largest difference $0"


@pytest.mark.parametrize("wrong", [Decimal("0.0027"), None])
def test_the_command_fails_where_the_table_and_we_disagree(monkeypatch, wrong) -> None:
    case = next(case for case in CASES if case.usd)
    monkeypatch.setattr(price_check, "price_cases", lambda: [replace(case, usd=wrong)])
    done = run("--check", "--json")
    assert done.exit_code == 1
    assert json.loads(done.output)["largest_difference_usd"] > 0


def test_a_model_is_listed_with_its_tiers_and_its_step_for_long_requests() -> None:
    rows = json.loads(run("gpt-5.5", "--json").output)["usd_per_million_tokens"]
    by_row = {(row["tier"], row["above"]): (row["input"], row["cache_read"], row["output"]) for row in rows}
    assert by_row[None, 0] == (5, 0.5, 30)
    assert by_row[None, 272_000] == (10, 1, 45)
    assert by_row["flex", 0] == (2.5, 0.25, 15)
    assert by_row["priority", 0] == (12.5, 1.25, 75)


def test_a_tier_without_a_price_of_its_own_is_not_listed() -> None:
    rows = json.loads(run("gpt-4-turbo", "--json").output)["usd_per_million_tokens"]
    assert [row["tier"] for row in rows] == [None, "batch"]


def test_a_listing_shows_cache_writes_and_fees() -> None:
    assert all(price in run("claude-haiku-4-5").output for price in ("1.25", "0.1", "2", "5", "batch"))
    assert "0.012" in run("perplexity:sonar").output


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("nobody-knows",), "no price is known for model 'nobody-knows'; add it to LLMOPS_PRICES_FILE"),
        ((), "name a model"),
        (("gpt-4o", "--check"), "name a model"),
    ],
)
def test_a_question_without_an_answer_is_one_line(arguments, told) -> None:
    error = run(*arguments).exception
    assert str(error).startswith(told)
    assert "\n" not in str(error)
