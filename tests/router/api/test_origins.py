"""Web pages that call the router: who may, what they are told, and who is kept out of an open door."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from pydantic import ValidationError

from router.api.origins import AT_HOME, Origins
from router.settings import RouterSettings
from tests.router.api.test_chat import assert_openai_error
from tests.support.router import live_router, manifest_for
from tests.support.upstream import fail, scripted_upstream

CHAT = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
STAINLESS = (
    "authorization,content-type,x-stainless-os,x-stainless-retry-count,anthropic-version,x-api-key,x-router-policy"
)


async def preflight(client: httpx.AsyncClient, origin: str, path: str = "/v1/chat/completions") -> httpx.Response:
    """Ask as a browser does before it sends."""
    asked = {"origin": origin, "access-control-request-method": "POST", "access-control-request-headers": STAINLESS}
    return await client.options(path, headers=asked | {"access-control-request-private-network": "true"})


@pytest.mark.parametrize(
    ("allowed", "origin", "may"),
    [
        (AT_HOME, "http://localhost", True),
        (AT_HOME, "http://localhost:3000", True),
        (AT_HOME, "HTTP://LocalHost:3000", True),
        (AT_HOME, "http://tauri.localhost", True),
        (AT_HOME, "https://127.0.0.1:8443", True),
        (AT_HOME, "http://[::1]:5173", True),
        (AT_HOME, "app://obsidian.md", True),
        (AT_HOME, "file://", True),
        (AT_HOME, "http://localhost.evil.example", False),
        (AT_HOME, "http://localhost:3000.evil.example", False),
        (AT_HOME, "http://evil.example:80@localhost:1", False),
        (AT_HOME, "http://127.0.0.1.evil.example", False),
        (AT_HOME, "null", False),
        (AT_HOME, "", False),
        (("https://chat.example",), "https://chat.example", True),
        (("https://chat.example",), "https://chat.example:444", False),
        (("https://chat.example",), "http://chat.example", False),
        (("https://chat.example",), "https://chatXexample", False),
        (("https://*.chat.example:*",), "https://a.chat.example:444", True),
        (("https://*.chat.example:*",), "https://chat.example", False),
        (("*",), "null", True),
        ((), "http://localhost", False),
    ],
)
def test_origins_say_whose_pages_may_call(allowed: tuple[str, ...], origin: str, may: bool) -> None:
    """Whole origins are compared, never a part of them."""
    assert Origins(allowed).allow(origin) is may


@pytest.mark.parametrize("origins", ["chat.example", "https://chat.example/path", "https://a.example, *x", "https://"])
def test_origins_of_the_settings_are_origins(origins: str) -> None:
    """What could never match is told at the start."""
    with pytest.raises(ValidationError):
        RouterSettings(cors_origins=origins)
    told = RouterSettings(cors_origins=" https://a.example/, http://b.example:* ,*,")
    assert told.cors_origins == "https://a.example,http://b.example:*,*"


async def test_pages_of_this_machine_may_call(tmp_path: Path) -> None:
    """The preflight grants every header that was asked for, and answers, errors and streams can be read."""
    origin = "http://localhost:3000"
    async with scripted_upstream() as upstream, live_router(tmp_path, manifest_for(upstream.url)) as router:
        granted = await preflight(router.client, origin)
        assert granted.status_code == 204
        assert granted.headers["access-control-allow-origin"] == origin
        assert granted.headers["access-control-allow-headers"] == STAINLESS
        assert "POST" in granted.headers["access-control-allow-methods"]
        assert granted.headers["access-control-allow-private-network"] == "true"
        page = {"origin": origin}
        answers = [await router.chat(headers=page), await router.chat(headers=page, stream=True)]
        answers += [await router.chat(headers=page, model="nope"), await router.client.get("/v1/models", headers=page)]
        answers.append(await router.client.get("/v1/nowhere", headers=page))
        upstream.script = fail(500)
        answers.append(await router.chat(headers=page))
        assert [answer.status_code for answer in answers] == [200, 200, 404, 200, 404, 502]
        for answer in answers:
            assert answer.headers["access-control-allow-origin"] == origin
            assert "x-request-id" in answer.headers["access-control-expose-headers"]
            assert answer.headers["vary"] == "origin"
        operations = await router.client.get("/healthz", headers=page)
        assert "access-control-allow-origin" not in operations.headers


async def test_foreign_pages_are_kept_out_of_an_open_door(tmp_path: Path) -> None:
    """While no key is asked for, a site that somebody visits must not reach the router, whatever host it names."""
    async with scripted_upstream() as upstream:
        async with live_router(tmp_path, manifest_for(upstream.url)) as router:
            for headers in ({"origin": "https://evil.example"}, {"origin": "null"}):
                refused = await router.chat(headers=headers)
                assert refused.status_code == 403
                assert_openai_error(refused, "origin_not_allowed")
                assert "access-control-allow-origin" not in refused.headers
                assert refused.headers["x-request-id"]
            rebound = {"origin": "http://evil.example:8000", "host": "evil.example:8000"}
            assert (await router.chat(headers=rebound)).status_code == 403
            assert (await preflight(router.client, "https://evil.example")).status_code == 403
            assert upstream.requests == []
        async with live_router(tmp_path, cors_origins="https://evil.example") as router:
            assert (await router.chat(headers={"origin": "https://evil.example"})).status_code == 200


async def test_foreign_pages_need_a_key_where_one_is_asked_for(tmp_path: Path) -> None:
    """A key opens the door to programs; a browser still keeps foreign pages from reading the answer."""
    async with scripted_upstream() as upstream, live_router(tmp_path, manifest_for(upstream.url)) as router:
        key = router.store.create_key("page").key
        await router.refresh()
        page = {"origin": "https://a.example", "authorization": f"Bearer {key}"}
        answer = await router.chat(headers=page)
        assert answer.status_code == 200
        assert "access-control-allow-origin" not in answer.headers
        asked = await preflight(router.client, "https://a.example")
        assert asked.status_code == 204
        assert "access-control-allow-origin" not in asked.headers
        assert (await router.chat(headers={"origin": "http://localhost:1"})).status_code == 401


async def test_a_page_of_the_routers_own_host_may_call_where_others_can(tmp_path: Path) -> None:
    """Beyond loopback and without keys, what the router itself serves is no foreign page."""
    async with scripted_upstream() as upstream:
        async with live_router(tmp_path, manifest_for(upstream.url), host="0.0.0.0", auth="off") as router:
            own = {"origin": "http://router.example:8000", "host": "router.example:8000"}
            assert (await router.chat(headers=own)).status_code == 200
            assert (await router.chat(headers=own | {"origin": "http://evil.example"})).status_code == 403
