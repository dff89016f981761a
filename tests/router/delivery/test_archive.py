"""The archive: claims, answers, and where they may lie."""

from __future__ import annotations

import secrets

import pytest

from router.delivery.archive import Archive, Entry
from router.delivery.recording import Tape
from router.state.memory import MemoryStore

TAPE = Tape("0" * 16, 200, [(b"x-a", b"1")], b"application/json", True, [b"data: 1\n\n", b"data: 2\n\n"])


def archive(*, at_home: bool = True, shared: MemoryStore | None = None) -> tuple[Archive, MemoryStore, MemoryStore]:
    """Return an archive and its two stores."""
    stores = shared or MemoryStore(), MemoryStore()
    return Archive(*stores, ttl=60, at_home=at_home), *stores


async def test_archive_gives_a_key_to_one_at_a_time() -> None:
    """A claim holds until it is released by its holder, and nobody else can release it."""
    made, _, _ = archive()
    assert await made.claim("n", b"f", "one") is None
    assert await made.claim("n", b"f", "two") == Entry(b"f", "one")
    await made.release("n", "two")
    assert await made.claim("n", b"f", "two") == Entry(b"f", "one")
    await made.release("n", "one")
    assert await made.claim("n", b"f", "two") is None


@pytest.mark.parametrize("size", [10, 512 * 1024, 3_000_000])
async def test_archive_returns_what_it_keeps(size: int) -> None:
    """An answer of any size comes back whole, to other processes too."""
    made, shared, _ = archive()
    tape = Tape("0" * 16, 200, [], b"", True, [secrets.token_bytes(size), b"end"])
    assert await made.claim("n", b"f", "one") is None
    await made.keep("n", Entry(b"f", "one", tape), private=False)
    for other in (made, archive(shared=shared)[0]):
        assert await other.claim("n", b"f", "two") == Entry(b"f", "one", tape)


async def test_archive_frees_a_key_whose_answer_is_torn() -> None:
    """An answer of which a part is gone is no answer, and the next request gets a new one."""
    made, shared, _ = archive()
    tape = Tape("0" * 16, 200, [], b"", True, [secrets.token_bytes(2_000_000)])
    assert await made.claim("n", b"f", "one") is None
    await made.keep("n", Entry(b"f", "one", tape), private=False)
    await shared.delete("once:n:one:1")
    assert await made.claim("n", b"f", "two") == Entry(b"f", "")
    assert await made.claim("n", b"f", "two") is None


@pytest.mark.parametrize(
    ("at_home", "private", "travels"), [(True, True, True), (False, False, True), (False, True, False)]
)
async def test_archive_lets_no_private_answer_leave_the_machine(*, at_home: bool, private: bool, travels: bool) -> None:
    """A store elsewhere never sees an answer that must stay local; this process keeps it."""
    made, shared, _ = archive(at_home=at_home)
    assert await made.claim("n", b"f", "one") is None
    await made.keep("n", Entry(b"f", "one", TAPE), private=private)
    assert (await shared.get("once:n") is not None) == travels
    assert await made.claim("n", b"f", "two") == Entry(b"f", "one", TAPE)
