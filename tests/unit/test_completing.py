"""What becomes of outputs in a reply: what is good is kept, what is bad is left out, and the reply is kept with it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import pytest

from libs.common.adapters.base import Completed, ProviderOutput, must_store
from libs.common.adapters.http import Reply
from libs.common.catalog import Provider
from libs.common.database.records import MediaType
from libs.common.database.states import State, SubmissionState
from libs.common.errors import ErrorCode, GenerationError
from libs.common.storage.download import Downloader
from libs.common.storage.objects import ObjectStore
from libs.common.storage.results import Place, Results
from sandbox.simulators import pictures
from services.dispatcher.completing import Completing
from tests.unit.test_outcomes import JOB

PNG = pictures.draw("kept", 1, 64, 64, "png")
REPLY = Reply(200, {"data": [{"b64_json": "no media"}]}, "", None, None, {"content-type": "application/json"}, 36)
URL = ProviderOutput(url="https://a/1.png")


def _completing(limit_bytes: int = 10_000_000) -> Completing:
    # Nothing here fetches or stores.
    return Completing(Results(cast("Downloader", None), cast("ObjectStore", None), limit_bytes=limit_bytes))


async def test_bytes_beside_urls_wait_in_the_database_and_all_are_kept() -> None:
    answer = Completed((URL, ProviderOutput(content=PNG), ProviderOutput(url="https://a/2.png")))
    outcome = await _completing().outcome(JOB, answer, REPLY)
    assert (outcome.state, outcome.submission_state) == (State.STORING, SubmissionState.COMPLETED)
    assert outcome.sources == [
        {"type": "image", "url": "https://a/1.png"},
        {"type": "image", "spooled": 0},
        {"type": "image", "url": "https://a/2.png"},
    ]
    assert outcome.spool == (PNG,)
    assert outcome.reply is None


async def test_outputs_that_are_no_media_are_left_out_of_the_good_ones_and_the_cost_is_of_all() -> None:
    bad = ProviderOutput(content=b"not an image at all")
    job = replace(JOB, claimed=replace(JOB.claimed, number_of_outputs=3))
    outcome = await _completing().outcome(job, Completed((bad, URL), unread=1), REPLY)
    assert outcome.sources == [{"type": "image", "url": "https://a/1.png"}]
    assert outcome.reply is not None
    assert outcome.reply["body"] == '{"data": [{"b64_json": "no media"}]}'
    assert outcome.cost_usd == JOB.model.cost_usd(3, {})


async def test_where_no_output_is_media_the_submit_is_uncertain_and_its_reply_kept() -> None:
    for content, limit_bytes in ((b"not an image at all", 10_000), (PNG, 10)):
        answer = Completed((ProviderOutput(content=content),))
        outcome = await _completing(limit_bytes).outcome(JOB, answer, REPLY)
        assert (outcome.state, outcome.submission_state) == (State.FAILED, SubmissionState.UNCERTAIN)
        assert outcome.reply == REPLY.kept()
        assert outcome.error is not None
        assert outcome.error["code"] == "PROVIDER_ERROR"
        assert outcome.error["message"].startswith("bfl answered 200")


async def test_a_url_that_holds_its_file_is_stored_even_where_urls_are_not() -> None:
    storage = JOB.provider.storage.model_copy(update={"upload_to_s3": False})
    unstored = JOB.provider.model_copy(update={"storage": storage})
    job = type(JOB)(JOB.claimed, JOB.model, unstored, JOB.adapter, 1, "sub_1")
    kept = await _completing().outcome(job, Completed((ProviderOutput(url="data:image/png;base64,eA=="),)), REPLY)
    assert kept.state is State.STORING
    assert (await _completing().outcome(job, Completed((URL,)), REPLY)).state is State.SUCCESS


@pytest.mark.parametrize(
    ("output", "is_stored"),
    [
        (URL, False),
        (ProviderOutput(url="https://a/1.png", needs_credentials=True), True),
        (ProviderOutput(url="DATA:image/png;base64,eA=="), True),
        (ProviderOutput(content=PNG), True),
    ],
)
def test_outputs_without_a_url_for_clients_must_be_stored(output: ProviderOutput, *, is_stored: bool) -> None:
    assert must_store([URL, output], upload_to_s3=False) is is_stored
    assert must_store([URL, output], upload_to_s3=True)


class _Refusing(Results):
    """Stores nothing."""

    def __init__(self, error: Exception) -> None:
        super().__init__(cast("Downloader", None), cast("ObjectStore", None), limit_bytes=10_000_000)
        self._error = error

    async def store_bytes(
        self, content: bytes, media_type: MediaType, provider: Provider, place: Place
    ) -> dict[str, Any]:
        raise self._error


@pytest.mark.parametrize(
    "error",
    [
        GenerationError(ErrorCode.S3_UPLOAD_FAILED, "away"),
        GenerationError(ErrorCode.PROVIDER_ERROR, "refused"),
        TimeoutError(),
        ValueError("unexpected"),
    ],
)
async def test_images_that_cannot_be_stored_wait_in_the_database_whatever_the_reason(error: Exception) -> None:
    outcome = await Completing(_Refusing(error)).outcome(JOB, Completed((ProviderOutput(content=PNG),)), REPLY)
    assert (outcome.state, outcome.submission_state) == (State.STORING, SubmissionState.COMPLETED)
    assert outcome.spool == (PNG,)
