"""The exact cache: who gets which answer, in which form, and what is never kept."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from router.cache.exact import CachedAnswer, ExactCache
from router.state.memory import MemoryStore
from router.types import Caller, Chunk, Completion, Event, InferenceRequest, Usage, Wishes
from router.wire.chat import parse_chat
from router.wire.openai import completion_event, parse_completion
from shared.sse import DONE, SSEReader, encode_event
from tests.support.nouns import CALLER, chat_request
from tests.support.properties import json_values, objects, text
from tests.support.upstream import chunk, completion

SURE = {"temperature": 0}


class SlowStore(MemoryStore):
    """A store whose writes wait until a test lets them through."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.puts = 0

    async def put(self, key: str, value: bytes, ttl: float) -> None:
        """Keep a value once the gate is open."""
        self.puts += 1
        await self.gate.wait()
        await super().put(key, value, ttl)


class AbsentStore(MemoryStore):
    """A store that is away."""

    @property
    def available(self) -> bool:
        """Never."""
        return False


def cache_of(store: MemoryStore | None = None, **settings: Any) -> ExactCache:
    """A cache over a store in memory."""
    return ExactCache(store or MemoryStore(), **{"ttl": 60, **settings})


def whole(body: Any) -> list[Event]:
    """The events of a whole answer."""
    return [parse_completion(json.dumps(body).encode(), None)]


def streamed(*chunks: Any, usage_asked: bool = False, done: bool = True) -> list[Event]:
    """The events of a stream as the adapter would yield them."""
    raw = b"".join(encode_event(json.dumps(one).encode()) for one in chunks) + (DONE if done else b"")
    return [completion_event(event, None, usage_asked) for event in SSEReader().feed(raw)]


def said(events: Iterable[Event]) -> list[Any]:
    """What a client reads: one completion, or the chunks of a stream."""
    events = list(events)
    if isinstance(events[0], Completion):
        return [json.loads(events[0].body)]
    raw = b"".join(event.raw for event in events if isinstance(event, Chunk))
    read = [event.data or b"" for event in SSEReader().feed(raw)]
    assert read.pop() == b"[DONE]"
    return [json.loads(data) for data in read]


HELLO = (
    chunk({"role": "assistant", "content": ""}),
    chunk({"content": "Hel"}),
    chunk({"content": "lo"}),
    chunk({}, "stop"),
)
USAGE_CHUNK = chunk(None, usage={"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12})


def answer(events: list[Event]) -> CachedAnswer:
    """An answer by backend `b`."""
    return CachedAnswer(events, "m", "b")


async def kept(cache: ExactCache, request: InferenceRequest, scope: str = "") -> list[Any] | None:
    """What the cache has for a request."""
    found = await cache.get(request, scope)
    return None if found is None else said(found.events)


# --- who may ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "wish", "eligible"),
    [
        (SURE, None, True),
        (SURE, "on", True),
        (SURE, "refresh", True),
        (SURE, "off", False),
        ({}, None, False),
        ({}, "on", True),
        ({}, "refresh", True),
        ({"temperature": 0, "n": 2}, None, False),
        ({"temperature": 0.1}, None, False),
    ],
)
def test_cache_serves_deterministic_requests_and_those_that_wish_it(
    fields: dict[str, Any], wish: Any, eligible: bool
) -> None:
    """Temperature zero is enough, a wish decides, and nothing else is cached unasked."""
    assert cache_of().eligible(chat_request(wishes=Wishes(cache=wish), **fields)) is eligible


def test_cache_serves_nobody_while_its_store_is_away_or_it_is_off() -> None:
    """Without a store, or with no time to live, there is no cache."""
    assert not cache_of(AbsentStore()).eligible(chat_request(**SURE))
    assert not cache_of(ttl=0).eligible(chat_request(**SURE))


def test_cache_keeps_local_requests_on_this_machine() -> None:
    """What must stay local goes into no store elsewhere; other requests may."""
    away = cache_of(at_home=False)
    assert not away.eligible(chat_request(**SURE), "local")
    assert away.eligible(chat_request(**SURE), "cluster")
    assert cache_of().eligible(chat_request(**SURE), "local")


# --- one entry, both forms --------------------------------------------------------------------


async def test_cache_returns_a_whole_answer_byte_for_byte() -> None:
    """The same request has the same bytes, and says who gave them."""
    cache, request = cache_of(), chat_request(**SURE)
    body = json.dumps(completion("é", x=[1.0]), indent=1).encode()
    cache.put(request, "", answer([parse_completion(body, None)]))
    found = await cache.get(request, "")
    assert found is not None
    assert (found.model, found.backend) == ("m", "b")
    assert [event.body for event in found.events if isinstance(event, Completion)] == [body]


async def test_cache_serves_a_stream_from_a_whole_answer_and_back() -> None:
    """Whichever form came first, the other says the same."""
    whole_request, stream_request = chat_request(**SURE), chat_request(**SURE, stream=True)
    cache = cache_of()
    cache.put(whole_request, "", answer(whole(completion("Hello"))))
    chunks = await kept(cache, stream_request)
    assert "".join(one["choices"][0]["delta"].get("content", "") for one in chunks or []) == "Hello"
    cache = cache_of()
    cache.put(stream_request, "", answer(streamed(*HELLO)))
    (found,) = await kept(cache, whole_request) or []
    assert found["choices"][0]["message"]["content"] == "Hello"
    assert found["choices"][0]["finish_reason"] == "stop"


async def test_cache_keeps_usage_that_was_hidden_from_the_stream() -> None:
    """A later whole answer has the usage, and so has a stream that asks for it; one that does not has none."""
    cache = cache_of()
    events = streamed(*HELLO, USAGE_CHUNK)
    assert all(b"prompt_tokens" not in event.raw for event in events if isinstance(event, Chunk))
    cache.put(chat_request(**SURE, stream=True), "", answer(events))
    (found,) = await kept(cache, chat_request(**SURE)) or []
    assert found["usage"]["total_tokens"] == 12
    asking = chat_request(**SURE, stream=True, stream_options={"include_usage": True})
    last = (await kept(cache, asking) or [])[-1]
    assert (last["choices"], last["usage"]["total_tokens"]) == ([], 12)
    assert all("usage" not in one for one in await kept(cache, chat_request(**SURE, stream=True)) or [])


async def test_cache_replays_streams_as_output() -> None:
    """A stream from the cache commits with its first event."""
    cache, request = cache_of(), chat_request(**SURE, stream=True)
    cache.put(request, "", answer(streamed(*HELLO)))
    found = await cache.get(request, "")
    assert found is not None
    assert all(isinstance(event, Chunk) and event.output for event in found.events)


async def test_cache_misses_a_stream_that_a_whole_answer_cannot_make() -> None:
    """An answer without messages serves whole requests only."""
    cache = cache_of()
    body = {"choices": [{"finish_reason": "stop", "text": "legacy"}]}
    cache.put(chat_request(**SURE), "", answer(whole(body)))
    assert await kept(cache, chat_request(**SURE)) == [body]
    assert await kept(cache, chat_request(**SURE, stream=True)) is None


# --- the key ----------------------------------------------------------------------------------

FULL = {
    "model": "m",
    "messages": [{"role": "user", "content": "Hi"}],
    "temperature": 0,
    "max_tokens": 5,
    "seed": 1,
    "tools": [{"type": "function", "function": {"name": "f"}}],
    "response_format": {"type": "json_object"},
    "user": "u",
    "unknown": {"a": [1]},
}


@pytest.mark.parametrize("name", list(FULL))
async def test_cache_key_covers_every_field(name: str) -> None:
    """A request that differs in any field, by value or absence, has another answer."""
    cache = cache_of()
    wishes = Wishes(cache="on")
    cache.put(chat_request(wishes=wishes, **FULL), "", answer(whole(completion("x"))))
    assert await kept(cache, chat_request(wishes=wishes, **FULL)) is not None
    others = {"model": "n", "messages": [{"role": "user", "content": "Ho"}], "tools": [], "temperature": 1, "seed": 2}
    other = {**FULL, name: others.get(name, {"type": "text"} if name == "response_format" else 7)}
    if name == "user":
        other[name] = "v"
    assert await kept(cache, chat_request(wishes=wishes, **other)) is None
    if name not in ("model", "messages"):
        del other[name]
        assert await kept(cache, chat_request(wishes=wishes, **other)) is None


@pytest.mark.parametrize(
    ("change", "scope"),
    [
        ({"caller": Caller(id="key_2", name="tests")}, "auto"),
        ({"wishes": Wishes(privacy="local")}, "auto"),
        ({"wishes": Wishes(privacy="cluster")}, "auto"),
        ({}, ""),
        ({}, "auto-fast"),
    ],
    ids=str,
)
async def test_cache_key_covers_caller_privacy_and_policy(change: dict[str, Any], scope: str) -> None:
    """Another key, another privacy or another policy never sees the entry."""
    cache, request = cache_of(), chat_request(**SURE)
    cache.put(request, "auto", answer(whole(completion("x"))))
    assert await kept(cache, request, "auto") is not None
    assert await kept(cache, structs.replace(request, **change), scope) is None


@given(
    st.data(),
    st.dictionaries(text.filter(lambda name: name not in FULL and name not in ("n", "stop")), json_values, max_size=3),
)
async def test_cache_key_ignores_spelling_delivery_and_the_router_object(data: st.DataObject, extra: Any) -> None:
    """Spacing, escapes, the order of members, `stream`, `stream_options` and `router` make no difference."""
    cache = cache_of()
    members = list({**FULL, **extra}.items())
    delivery = [("stream", False), ("stream_options", None), ("router", {"session": "s"})]
    bodies = []
    for more in (data.draw(st.lists(st.sampled_from(delivery), unique_by=str)), []):
        spelled = data.draw(objects(data.draw(st.permutations([*members, *more]))))
        bodies.append(parse_chat(spelled.encode(), "req_1", CALLER, {}))
    first, second = (structs.replace(request, wishes=Wishes(cache="on")) for request in bodies)
    cache.put(first, "", answer(whole(completion("x"))))
    assert await kept(cache, second) is not None


async def test_cache_key_survives_numbers_that_no_parser_holds() -> None:
    """A body may hold what cannot be compared by value; it is then compared by its bytes."""
    cache = cache_of()
    requests = []
    for number in (b"1e999", b"1e998"):
        body = b'{"model":"m","messages":[{"role":"user","content":"Hi"}],"temperature":0,"x":[' + number + b"]}"
        requests.append(parse_chat(body, "req_1", CALLER, {}))
    cache.put(requests[0], "", answer(whole(completion("x"))))
    assert await kept(cache, requests[0]) is not None
    assert await kept(cache, requests[1]) is None


# --- what is not kept -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "events",
    [
        [],
        streamed(*HELLO, done=False),
        streamed(*HELLO[:-1]),
        streamed(done=True),
        streamed({**HELLO[-1], "choices": [{**HELLO[-1]["choices"][0], "logprobs": {"content": []}}]}),
        [*streamed(*HELLO, done=False), Chunk(encode_event(b'{"error":{"message":"cut"}}'))],
        whole({**completion("x"), "choices": [{**completion("x")["choices"][0], "finish_reason": None}]}),
        whole({**completion("x"), "choices": [completion("x")["choices"][0], {"index": 1, "message": {}}]}),
    ],
    ids=range(8),
)
async def test_cache_never_keeps_what_is_not_finished(events: list[Event]) -> None:
    """A stream without its end, a choice without a finish, an error: nothing of it is kept."""
    store = MemoryStore()
    cache = cache_of(store)
    cache.put(chat_request(**SURE), "", answer(events))
    await cache.drain()
    assert not store._entries


async def test_cache_keeps_answers_up_to_its_bound() -> None:
    """An answer at the bound is kept, one byte more is not."""
    body = json.dumps(completion("x" * 500)).encode()
    for bound, is_kept in ((len(body), True), (len(body) - 1, False)):
        cache, request = cache_of(max_bytes=bound), chat_request(**SURE)
        cache.put(request, "", answer([parse_completion(body, None)]))
        assert (await kept(cache, request) is not None) is is_kept


async def test_cache_takes_a_foreign_entry_for_none() -> None:
    """Whatever else stands under the key is a miss."""
    store = MemoryStore()
    cache, request = cache_of(store), chat_request(**SURE)
    cache.put(request, "", answer(whole(completion("x"))))
    await cache.drain()
    (key,) = store._entries
    for foreign in (b"", b"garbage", b"{}", b'{"model":"m","backend":"b","completion":'):
        await store.put(key, foreign, 60)
        assert await kept(cache, request) is None


# --- time -------------------------------------------------------------------------------------


async def test_cache_refresh_asks_anew_and_replaces_the_entry() -> None:
    """A refresh sees no entry; those that follow see what it brought."""
    cache, request = cache_of(), chat_request(**SURE)
    cache.put(request, "", answer(whole(completion("old"))))
    refresh = structs.replace(request, wishes=Wishes(cache="refresh"))
    assert await kept(cache, refresh) is None
    cache.put(refresh, "", answer(whole(completion("new"))))
    assert await kept(cache, request) == [completion("new")]


async def test_cache_entries_live_for_their_time() -> None:
    """After its time to live an entry is gone."""
    now = 0.0
    cache, request = cache_of(MemoryStore(clock=lambda: now), ttl=30), chat_request(**SURE)
    cache.put(request, "", answer(whole(completion("x"))))
    assert await kept(cache, request) is not None
    now = 30.0
    assert await kept(cache, request) is None


async def test_cache_get_waits_for_the_put_before_it() -> None:
    """The next request sees the answer although it is still on its way to the store."""
    store = SlowStore()
    cache, request = cache_of(store), chat_request(**SURE)
    cache.put(request, "", answer(whole(completion("x"))))
    reading = asyncio.ensure_future(kept(cache, request))
    await asyncio.sleep(0)
    assert not reading.done()
    store.gate.set()
    assert await reading == [completion("x")]


async def test_cache_keeps_the_newest_of_two_puts() -> None:
    """Two answers to one request are written one after the other, and both before the cache is drained."""
    store = SlowStore()
    cache, request = cache_of(store), chat_request(**SURE)
    for said_ in ("first", "second", "third"):
        cache.put(request, "", answer(whole(completion(said_))))
    await asyncio.sleep(0)
    store.gate.set()
    await cache.drain()
    assert store.puts == 3
    assert not cache._pending
    assert await kept(cache, request) == [completion("third")]


async def test_cache_drain_leaves_no_task() -> None:
    """After draining everything is kept and nothing runs."""
    before = asyncio.all_tasks()
    cache = cache_of()
    await cache.drain()
    for index in range(20):
        cache.put(chat_request(**SURE, seed=index), "", answer(whole(completion("x"))))
    await cache.drain()
    assert asyncio.all_tasks() == before
    assert await kept(cache, chat_request(**SURE, seed=19)) is not None


async def test_cache_entry_of_an_agent_keeps_its_estimate() -> None:
    """A stream whose tokens nobody counted is kept with what was estimated."""
    cache = cache_of()
    unfinished, counted = streamed(*HELLO, done=False), Usage(3, 4, source="estimated")
    events: list[Event] = [*unfinished, Chunk(b"", usage=counted), Chunk(DONE)]
    cache.put(chat_request(**SURE, stream=True), "", answer(events))
    (found,) = await kept(cache, chat_request(**SURE)) or []
    assert found["usage"]["total_tokens"] == 7


def test_cache_keeps_chat_answers_alone() -> None:
    """An entry has the form of a chat answer."""
    assert not cache_of().eligible(structs.replace(chat_request(**SURE), endpoint="messages"))
