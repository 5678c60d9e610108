"""A prompt that a provider repeats in an error is not taken for what the provider says."""

from __future__ import annotations

from typing import Any

import pytest

from libs.common.adapters.echoes import texts_of
from libs.common.errors import ErrorCode, GenerationError, NotAccepted
from tests.contract.answers import over
from tests.contract.cases import CASES

PROMPT = "a poster of a credit card, in the billing department, 余额 written on it, quota is not enough"
ECHOED = [
    {"error": {"message": f"Invalid prompt: '{PROMPT}' is not allowed", "code": "invalid_prompt"}},
    {"detail": f"{PROMPT[:60]}... cannot be drawn"},
    {"message": PROMPT, "error": {"reason": PROMPT}},
    {"error": {"message": f"{PROMPT.upper()} is not allowed"}},
    {"error": {"message": "'Credit  card' is not allowed"}},
    {"error": {"message": "... in the billing department"}},
]


@pytest.mark.parametrize("name", sorted(CASES))
@pytest.mark.parametrize("body", ECHOED)
async def test_an_echoed_prompt_says_nothing_of_the_account(name: str, body: Any) -> None:
    with pytest.raises(NotAccepted) as caught:
        await over(name, (400, body)).submit(CASES[name].request(PROMPT))
    assert caught.value.code is ErrorCode.INVALID_REQUEST


@pytest.mark.parametrize("name", sorted(CASES))
@pytest.mark.parametrize("body", ECHOED)
async def test_an_echoed_prompt_in_a_good_status_proves_no_refusal(name: str, body: Any) -> None:
    with pytest.raises(GenerationError) as caught:
        await over(name, (200, body)).submit(CASES[name].request(PROMPT))
    assert not isinstance(caught.value, NotAccepted)
    assert caught.value.code is ErrorCode.PROVIDER_ERROR


@pytest.mark.parametrize("name", sorted(CASES))
async def test_an_account_without_credit_is_told_beside_an_echo(name: str) -> None:
    body = {"error": {"message": "Your account has exhausted balance."}}
    with pytest.raises(NotAccepted) as caught:
        await over(name, (400, body)).submit(CASES[name].request(PROMPT))
    assert caught.value.code is ErrorCode.QUOTA_EXCEEDED


def test_texts_are_bounded() -> None:
    deep: Any = "x" * 20_000
    for _ in range(3_000):
        deep = [deep]
    given = {"prompt": "short", "image": "y" * 20_000, "list": ["z" * 9] * 1_000, "deep": deep}
    assert texts_of(given)[:2] == ["short", "y" * 10_000]
    assert len(texts_of({str(number): "z" * 9 for number in range(1_000)})) == 50
    assert texts_of(None) == []
