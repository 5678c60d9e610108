"""The console before attackers: sessions, forms, headers, redirects. Rows are looked at after each refusal."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from urllib.parse import urlencode

import pytest

from libs.common.database.engine import Database
from services.gateway.console.guard import POLICY
from services.gateway.console.pages.table import BUTTONS, FILES, PAGES
from tests.conftest import StartStack
from tests.support.console import SESSION, VISITOR, Visitor, visitor
from tests.support.http import call
from tests.support.rows import rows
from tests.support.running import Running
from tests.support.waiting import eventually

_VARIABLE = re.compile(r"\{(\w+)\}")


def _path(pattern: str) -> str:
    """A path of that pattern, about things that are not there."""
    return "/admin" + _VARIABLE.sub(lambda found: "0" if found[1] == "index" else f"{found[1]}_none", pattern)


PAGE_PATHS = sorted(map(_path, (*PAGES, *FILES)))
BUTTON_PATHS = sorted([*map(_path, BUTTONS), "/admin/sign-out"])


@pytest.fixture
async def stranger(running: Running) -> AsyncIterator[Visitor]:
    async with visitor(running.gateway_url()) as found:
        yield found


@pytest.fixture
async def operator(running: Running) -> AsyncIterator[Visitor]:
    async with visitor(running.gateway_url()) as found:
        await found.sign_in(running.admin_key)
        yield found


async def _audited(running: Running) -> int:
    database = Database(
        running.stack.environment["DARKROOM_DATABASE_URL"],
        size=1,
        statement_timeout_seconds=10,
        application_name="test",
    )
    try:
        (row,) = await rows(database, "SELECT count(*) AS number FROM audit_records")
    finally:
        await database.close()
    return int(row["number"])


@pytest.mark.parametrize("path", PAGE_PATHS)
async def test_without_a_session_no_page_is_shown(stranger: Visitor, path: str) -> None:
    answer = await stranger.get(path)
    assert answer.status == 303
    assert answer.location.startswith("/admin/sign-in?next=")
    assert not answer.text


@pytest.mark.parametrize("path", PAGE_PATHS)
async def test_a_made_up_session_shows_no_page(running: Running, path: str) -> None:
    async with visitor(running.gateway_url(), {SESSION: "x" * 43}) as guesser:
        assert (await guesser.get(path)).location.startswith("/admin/sign-in")


@pytest.mark.parametrize("path", BUTTON_PATHS)
async def test_without_a_session_no_button_does_anything(running: Running, stranger: Visitor, path: str) -> None:
    token = (await stranger.get("/admin/sign-in")).token
    before = await _audited(running)
    answer = await stranger.post(path, token, owner="mallory")
    assert answer.status == 303
    assert "/admin/sign-in" in answer.location
    assert await _audited(running) == before


@pytest.mark.parametrize("path", BUTTON_PATHS)
async def test_no_button_counts_without_its_token(running: Running, operator: Visitor, path: str) -> None:
    async with visitor(running.gateway_url()) as other:
        others = await other.sign_in(running.admin_key)
    before = await _audited(running)
    for token in (None, "0" * 64, "é", others):
        answer = await operator.post(path, token, owner="mallory")
        assert answer.status == 403, token
        assert "This form is not valid any more" in answer.text
    assert await _audited(running) == before
    # Who was to be signed out is still there.
    assert (await operator.get("/admin/audit")).status == 200


@pytest.mark.parametrize("path", BUTTON_PATHS)
@pytest.mark.parametrize(
    "headers",
    [
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"origin": "https://evil.example"},
        {"origin": "null"},
    ],
    ids=["cross-site", "same-site", "origin", "null-origin"],
)
async def test_no_button_counts_from_another_site(operator: Visitor, path: str, headers: dict[str, str]) -> None:
    token = (await operator.get("/admin/audit")).token
    assert (await operator.post(path, token, headers=headers)).status == 403


async def test_signing_in_needs_a_form_of_ours_too(running: Running, stranger: Visitor) -> None:
    answer = await stranger.post("/admin/sign-in", key=running.admin_key)
    assert answer.status == 403
    token = (await stranger.get("/admin/sign-in")).token
    async with visitor(running.gateway_url()) as other:
        await other.get("/admin/sign-in")
        assert (await other.post("/admin/sign-in", token, key=running.admin_key)).status == 403
    assert SESSION not in stranger.cookies


async def test_a_session_is_never_one_that_was_handed_in(running: Running) -> None:
    planted = {SESSION: "p" * 43}
    async with visitor(running.gateway_url(), planted) as victim:
        await victim.sign_in(running.admin_key)
        assert victim.cookies[SESSION] != planted[SESSION]
    async with visitor(running.gateway_url(), planted) as attacker:
        assert (await attacker.get("/admin")).location.startswith("/admin/sign-in")


async def test_who_signs_in_anew_leaves_the_old_session_behind(running: Running, operator: Visitor) -> None:
    old = operator.cookies[SESSION]
    page = await operator.get("/admin/audit")
    answer = await operator.post("/admin/sign-in", page.token, key=running.admin_key)
    assert answer.status == 303
    assert operator.cookies[SESSION] != old
    async with visitor(running.gateway_url(), {SESSION: old}) as attacker:
        assert (await attacker.get("/admin")).location.startswith("/admin/sign-in")


async def test_cookies_are_out_of_reach(stranger: Visitor, running: Running) -> None:
    page = await stranger.get("/admin/sign-in")
    answer = await stranger.post("/admin/sign-in", page.token, key=running.admin_key)
    for cookie in (*page.set_cookies, *answer.set_cookies):
        assert "HttpOnly" in cookie
        assert "SameSite=Strict" in cookie
        assert "Path=/admin" in cookie
    names = {cookie.partition("=")[0] for cookie in (*page.set_cookies, *answer.set_cookies)}
    assert names == {SESSION, VISITOR}


async def test_under_tls_cookies_go_no_other_way(start_stack: StartStack) -> None:
    running = await start_stack(
        settings={"DARKROOM_CONSOLE_URL": "https://console.example/admin"}, services=("gateway",)
    )
    async with visitor(running.gateway_url()) as found:
        page = await found.get("/admin/sign-in")
        # A proxy may say another host than the browser does.
        answer = await found.post(
            "/admin/sign-in",
            page.token,
            headers={"origin": "https://console.example", "cookie": page.set_cookies[0].partition(";")[0]},
            key=running.admin_key,
        )
        assert answer.status == 303
        assert answer.set_cookies[0].startswith(f"__Host-{SESSION}=")
    (cookie,) = page.set_cookies
    assert cookie.startswith(f"__Host-{VISITOR}=")
    assert "Secure" in cookie
    assert "Path=/;" in f"{cookie};"


async def test_a_session_opens_nothing_but_the_console(running: Running, operator: Visitor) -> None:
    cookies = {"cookie": f"{SESSION}={operator.cookies[SESSION]}"}
    for path in ("/api/admin/keys", "/api/external/generation", "/api/health/detailed", "/v1/models"):
        assert (await call(running.gateway_url(), path, headers=cookies)).status == 401
        assert (await call(running.gateway_url(), path, key=operator.cookies[SESSION])).status == 401


async def test_a_revoked_key_and_a_session_that_is_over_open_nothing(start_stack: StartStack) -> None:
    running = await start_stack(
        settings={"DARKROOM_KEY_CACHE_SECONDS": "0.1", "DARKROOM_CONSOLE_IDLE_SECONDS": "2"}, services=("gateway",)
    )
    made = await running.new_key("an operator", role=2)
    async with visitor(running.gateway_url()) as found, visitor(running.gateway_url()) as other:
        await found.sign_in(made.key)
        token = await other.sign_in(running.admin_key)
        assert (await other.post(f"/admin/keys/{made.api_key.id}/revoke", token)).status == 303

        async def is_out() -> bool:
            return (await found.get("/admin/audit")).status == 303

        await eventually(is_out, within=5, what="the revoked key is out")
        # Whoever looks keeps the session alive; this one does not.
        cookie = other.cookies[SESSION]
        async with visitor(running.gateway_url(), {SESSION: cookie}) as late:

            async def is_idle() -> bool:
                (row,) = await _sessions(running)
                return bool(row["is_idle"])

            await eventually(is_idle, within=10, what="the session is idle")
            assert (await late.get("/admin/audit")).status == 303


async def _sessions(running: Running) -> list[dict[str, object]]:
    url = running.stack.environment["DARKROOM_DATABASE_URL"]
    database = Database(url, size=1, statement_timeout_seconds=10, application_name="test")
    try:
        query = """SELECT seen_at < now() - interval '2.5 seconds' AS is_idle FROM console_sessions
            JOIN api_keys ON api_keys.id = api_key_id WHERE owner = 'admin'"""
        return await rows(database, query)
    finally:
        await database.close()


async def test_a_clients_key_signs_nobody_in(running: Running, stranger: Visitor) -> None:
    made = await running.new_key("a client at the console")
    page = await stranger.get("/admin/sign-in")
    answer = await stranger.post("/admin/sign-in", page.token, key=made.key)
    assert answer.status == 403
    assert SESSION not in stranger.cookies
    assert made.key not in answer.text


@pytest.mark.parametrize(
    "path",
    [
        "/admin",
        "/admin/sign-in",
        "/admin/keys",
        "/admin/nowhere",
        "/admin/generations/gen_none",
        "/admin/static/x/console.js",
    ],
)
async def test_answers_say_what_a_browser_may_do(operator: Visitor, path: str) -> None:
    answer = await operator.get(path)
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert answer.headers["x-frame-options"] == "DENY"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "same-origin"
    assert answer.headers["cache-control"] == (
        "public, max-age=31536000, immutable" if "static" in path else "no-store"
    )


async def test_the_policy_lets_nothing_in_from_elsewhere() -> None:
    sources = {word for part in POLICY.split(";") for word in part.split()[1:]}
    assert sources == {"'none'", "'self'", "data:"}
    assert "img-src 'self' data:" in POLICY
    assert POLICY.count("data:") == 1


@pytest.mark.parametrize(
    "wanted",
    [
        "https://evil.example/",
        "//evil.example/admin",
        "/\\evil.example",
        "/admin/../../evil",
        "/admin//evil.example",
        "javascript:alert(1)",
        "/admin\r\nset-cookie: a=b",
        "/adminevil",
        "\x00/admin",
        "/admin" + "x" * 2_000,
    ],
)
async def test_nobody_is_led_away(running: Running, stranger: Visitor, wanted: str) -> None:
    page = await stranger.get("/admin/sign-in")
    answer = await stranger.post("/admin/sign-in", page.token, key=running.admin_key, next=wanted)
    assert (answer.status, answer.location) == (303, "/admin")
    token = (await stranger.get("/admin/audit")).token
    answer = await stranger.post("/admin/preferences", token, next=wanted, theme="dark")
    assert (answer.status, answer.location) == (303, "/admin")


@pytest.mark.parametrize(
    "path",
    [
        "/admin/generations?before=%00&status=NOPE&from=never&label==&owner=%00",
        "/admin/generations?search=%27%3B--&view=%3Cscript%3E",
        "/admin/generations/%00",
        "/admin/generations/..%2f..%2fetc",
        "/admin/batches?before=%F0%9F%A6%89",
        "/admin/batches/batch_none?after=-1&status=x",
        "/admin/monitoring/errors?level=x&code=y&text=%22%28",
        "/admin/keys?of=%00&before=x",
        "/admin/audit?before=%27",
        "/admin/playground?model=no-such",
        "/admin?said=%3Cscript%3E&once=%3Cscript%3E",
    ],
)
async def test_nonsense_in_an_address_is_no_fault_of_ours(operator: Visitor, path: str) -> None:
    answer = await operator.get(path)
    assert answer.status in {200, 400, 404}
    assert "<script>" not in answer.text


async def test_forms_have_bounds(running: Running, operator: Visitor) -> None:
    token = (await operator.get("/admin/audit")).token
    many = {f"field_{number}": "x" for number in range(501)}
    assert (await operator.post("/admin/keys", token, headers=None, **many)).status == 400
    answer = await operator.post("/admin/keys", token, owner="x" * 17_000_000)
    assert answer.status == 413
    answer = await operator.post("/admin/keys", token, owner="", requests_per_minute="1e400", expires_at="never")
    assert answer.status == 400
    assert "must be a number" in answer.text
    answer = await operator.post("/admin/playground", token, model="flux-pro", prompt="x", parameters="[" * 100_000)
    assert answer.status == 400
    assert "must be a JSON object" in answer.text


async def test_no_key_and_no_session_is_in_a_log(running: Running, operator: Visitor) -> None:
    token = (await operator.get("/admin/audit")).token
    answer = await operator.post("/admin/keys", token, owner="of a log")
    found = re.search(r'id="new-key">(drk_[^<]+)<', answer.text)
    assert found is not None
    log = running.log("gateway")
    for secret in (running.admin_key, found[1], operator.cookies[SESSION], token):
        assert secret not in log


async def test_what_is_pressed_is_in_the_audit_log_with_its_outcome(operator: Visitor) -> None:
    token = (await operator.get("/admin/audit")).token
    await operator.post("/admin/generations/gen_nobodys/cancel", token)
    page = await operator.get("/admin/audit")
    assert "gen_nobodys" in page.text
    assert "generation.cancel" in page.text
    assert "NOT_FOUND" in page.text


async def test_without_the_monitor_the_console_says_so(start_stack: StartStack) -> None:
    running = await start_stack(services=("gateway",))
    async with visitor(running.gateway_url()) as found:
        await found.sign_in(running.admin_key)
        page = await found.get("/admin")
        assert page.status == 200
        assert "The monitor is away" in page.text
        assert (await found.get("/admin/monitoring/alerts")).status == 503
        assert (await found.get("/admin/experiments")).status == 503


async def test_a_field_of_a_form_that_is_given_twice_is_refused(operator: Visitor) -> None:
    token = (await operator.get("/admin/keys")).token
    body = urlencode([("form_token", token), ("owner", "a"), ("owner", "b"), ("role", "client")])
    answer = await operator.post_bytes("/admin/keys", body.encode())
    assert (answer.status, "given twice" in answer.text) == (400, True)


async def test_a_field_whose_name_is_no_text_is_named_in_the_refusal(operator: Visitor) -> None:
    token = (await operator.get("/admin/keys")).token
    part = b'--x\r\ncontent-disposition: form-data; name="%s"\r\n\r\n%s\r\n'
    parts = [(b"form_token", token.encode()), (b"\xffowner", b"a"), (b"\xffowner", b"b")]
    body = b"".join(part % one for one in parts) + b"--x--\r\n"
    kind = {"content-type": "multipart/form-data; boundary=x"}
    answer = await operator.post_bytes("/admin/keys", body, headers=kind)
    assert (answer.status, "given twice" in answer.text) == (400, True)
