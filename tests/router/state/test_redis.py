"""Redis absent, refused, frozen, killed, full: calls stay bounded, never raise, and it comes back by itself."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from redis.asyncio.connection import parse_url

from router.state.redis import RedisAddress, RedisStore, redis_address
from tests.support.process import free_port
from tests.support.valkey import ValkeyProcess
from tests.support.waiting import eventually

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def open_store(url: str, budget: float = 0.2) -> AsyncIterator[RedisStore]:
    """A store that pings often, closed at the end."""
    store = RedisStore(url, budget=budget, cooldown=0.01)
    await store.connect()
    try:
        yield store
    finally:
        await store.close()


async def assert_harmless(store: RedisStore) -> None:
    """Many calls to a store that is away end at once, find nothing and raise nothing."""
    for index in range(2000):
        assert await store.get(f"k{index}") is None
        await store.put(f"k{index}", b"v", 60)
    assert not store.available


async def assert_works(store: RedisStore, key: str) -> None:
    """The store keeps and finds; a single call may exceed its budget on a busy machine."""

    async def kept() -> bool:
        await store.put(key, key.encode(), 60)
        return await store.get(key) == key.encode()

    await eventually(kept)


async def test_redis_refused_is_away_until_it_starts(tmp_path: Path) -> None:
    """A port where nothing listens is no error; a Redis that starts there later is found."""
    valkey = ValkeyProcess(tmp_path, free_port())
    async with open_store(valkey.url) as store:
        assert not store.available
        await assert_harmless(store)
        with valkey:
            await eventually(lambda: store.available)
            await assert_works(store, "late")


async def test_redis_whose_name_does_not_resolve_is_away() -> None:
    """A host that does not exist is no error."""
    async with open_store("redis://no-such-host.invalid:6379/0") as store:
        await assert_harmless(store)


async def test_redis_frozen_costs_a_budget_and_recovers(own_valkey: ValkeyProcess) -> None:
    """A Redis that hangs is left alone after one call, and answers truly once it goes on."""
    async with open_store(own_valkey.url) as store:
        await assert_works(store, "before")
        own_valkey.freeze()
        assert await store.get("before") is None
        await assert_harmless(store)
        own_valkey.resume()
        await eventually(lambda: store.available)
        await assert_works(store, "after")


async def test_redis_frozen_under_load_mixes_up_no_answers(own_valkey: ValkeyProcess) -> None:
    """Calls that were cut off in the middle leave no answer behind for others."""
    async with open_store(own_valkey.url, budget=5.0) as store:
        names = [f"n{index}" for index in range(50)]
        await asyncio.gather(*(store.put(name, name.encode(), 60) for name in names))
        store._budget = 0.02
        own_valkey.freeze()
        assert await asyncio.gather(*(store.get(name) for name in names)) == [None] * 50
        own_valkey.resume()
        store._budget = 5.0
        await eventually(lambda: store.available)
        for _ in range(3):
            assert await asyncio.gather(*(store.get(name) for name in names)) == [name.encode() for name in names]


async def test_redis_killed_and_restarted_is_found_again(own_valkey: ValkeyProcess) -> None:
    """A crash loses what was kept and nothing else; the same port is found again, several times."""
    async with open_store(own_valkey.url) as store:
        for round_ in range(3):
            await assert_works(store, f"round{round_}")
            own_valkey.kill()
            assert await store.get(f"round{round_}") is None
            await assert_harmless(store)
            own_valkey.start()
            await eventually(lambda: store.available)


async def test_redis_restarted_unnoticed_is_found_again(own_valkey: ValkeyProcess) -> None:
    """A restart between two calls leaves dead connections, which are replaced."""
    async with open_store(own_valkey.url) as store:
        await asyncio.gather(*(store.get(f"k{index}") for index in range(20)))
        own_valkey.stop()
        own_valkey.start()
        await assert_works(store, "again")


async def test_redis_that_is_full_still_answers(tmp_path: Path) -> None:
    """A write that Redis refuses is lost; reads go on, and Redis does not count as away."""
    with ValkeyProcess(tmp_path, None, "--maxmemory-policy", "noeviction") as valkey:
        async with open_store(valkey.url, budget=5.0) as store:
            await store.put("kept", b"v", 60)
            await store._client.config_set("maxmemory", "1")
            await store.put("refused", b"v", 60)
            assert store.available
            assert await store.get("refused") is None
            assert await store.get("kept") == b"v"


async def test_redis_that_wants_a_password_is_away(tmp_path: Path) -> None:
    """Wrong credentials are an outage, not an error of the request."""
    with ValkeyProcess(tmp_path, None, "--requirepass", "secret") as valkey:
        async with open_store(valkey.url) as store:
            await assert_harmless(store)
        async with open_store(valkey.url.replace("://", "://:secret@"), budget=5.0) as store:
            await assert_works(store, "in")


async def _garbage(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while await reader.read(100):
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")


async def _closing(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    pass


@pytest.mark.parametrize("serve", [_garbage, _closing], ids=["garbage", "closing"])
async def test_redis_that_is_none_is_away(serve: Serve) -> None:
    """Whatever else listens there is no error."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    async with server:
        async with open_store(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0") as store:
            await assert_harmless(store)


async def test_redis_store_closes_while_its_redis_is_away(own_valkey: ValkeyProcess) -> None:
    """Closing in the middle of an outage leaves no task behind."""
    before = asyncio.all_tasks()
    async with open_store(own_valkey.url) as store:
        own_valkey.freeze()
        await store.get("k")
        assert not store.available
    assert asyncio.all_tasks() == before
    assert await store.get("k") is None
    assert asyncio.all_tasks() == before


async def test_redis_outage_is_said_once(own_valkey: ValkeyProcess, caplog: pytest.LogCaptureFixture) -> None:
    """One line when it goes, one when it is back, however many calls were made."""
    async with open_store(own_valkey.url, budget=5.0) as store:
        own_valkey.kill()
        await store.get("k")
        await assert_harmless(store)
        own_valkey.start()
        caplog.set_level("INFO", "router.state.redis")
        await eventually(lambda: store.available)
    said = [record.getMessage() for record in caplog.records if record.name == "router.state.redis"]
    assert said == ["redis is away; the cache is off and limits are split until it is back", "redis is back"]


async def test_redis_without_its_client_is_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where redis-py is not installed, one line says what to install, and nothing is tried again."""

    async def connected(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    monkeypatch.setitem(sys.modules, "redis.asyncio", None)
    before = asyncio.all_tasks()
    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    async with server:
        async with open_store(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0") as store:
            assert store._pinger is None
            await assert_harmless(store)
    said = [record.getMessage() for record in caplog.records if record.name == "router.state.redis"]
    assert len(said) == 1
    assert "install inference-router[redis]" in said[0]
    assert asyncio.all_tasks() == before


async def test_redis_without_its_client_that_comes_later_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The same holds for a Redis that starts after the router."""
    monkeypatch.setitem(sys.modules, "redis.asyncio", None)
    valkey = ValkeyProcess(tmp_path, free_port())
    async with open_store(valkey.url) as store:
        with valkey:
            await eventually(lambda: store._pinger is not None and store._pinger.done())
        assert not store.available
    said = [record.getMessage() for record in caplog.records if record.name == "router.state.redis"]
    assert [line.partition(";")[0].partition(",")[0] for line in said] == ["redis is away", "redis answers"]


async def test_redis_at_a_socket_file_is_used(tmp_path: Path) -> None:
    """A `unix://` URL is knocked at and used like any other."""
    socket = tmp_path / "v.sock"
    with ValkeyProcess(tmp_path, None, "--unixsocket", str(socket)):
        async with open_store(f"unix://{socket}?db=1", budget=5.0) as store:
            await assert_works(store, "file")


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://localhost:6379/0", RedisAddress("localhost", 6379)),
        ("redis://cache", RedisAddress("cache", 6379)),
        ("redis://", RedisAddress("localhost", 6379)),
        ("rediss://user:p%40ss@cache.example:7000/3?protocol=3", RedisAddress("cache.example", 7000)),
        ("redis://[::1]:7000", RedisAddress("::1", 7000)),
        ("unix:///run/valkey%20a.sock?db=2", RedisAddress("", path="/run/valkey a.sock")),
        ("unix://:secret@/run/v.sock", RedisAddress("", path="/run/v.sock")),
    ],
)
def test_redis_address_is_where_the_client_connects(url: str, address: RedisAddress) -> None:
    """The address is the one that redis-py takes from the same URL."""
    assert redis_address(url) == address
    asked = parse_url(url)
    theirs = RedisAddress(
        "" if "path" in asked else asked.get("host", "localhost"), asked.get("port", 6379), asked.get("path", "")
    )
    assert theirs == address


@pytest.mark.parametrize(
    "url",
    [
        "",
        "nonsense",
        "http://host",
        "redis://host:port/0",
        "redis://host:70000",
        "redis://host/first",
        "redis://host?db=first",
        "redis://host?socket_timeout=long",
        "unix://",
        "redis://[::1",
    ],
)
def test_redis_address_refuses_what_is_none(url: str) -> None:
    """What can never be an address is an error before anything is tried."""
    with pytest.raises(ValueError, match=r"."):
        redis_address(url)
