"""PostgreSQL: several routers share one registry, and the server comes and goes."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from sqlalchemy import text

from router.registry.build import build_catalog
from router.registry.catalog import CatalogSource
from router.registry.manifest import parse_manifest
from router.registry.rows import Announcement, FoundBackend, FoundModel
from router.registry.store import RegistryStore, StoreError, open_store
from router.registry.usage import UsageWriter
from tests.router.registry.outcomes import ids, outcome
from tests.support.postgres import PASSWORD, PostgresProcess
from tests.support.process import ROOT
from tests.support.waiting import eventually

FIRST = """
backends: [{name: b, dialect: openai, base_url: "http://h/v1", tier: external}]
models: [{id: first, deployments: [{backend: b}]}, {id: common, fallbacks: [first], deployments: [{backend: b}]}]
"""
SECOND = FIRST.replace("first", "second")


@pytest.fixture
def url(postgres: PostgresProcess, migrated_database: str) -> Iterator[str]:
    """The URL of a registry at the newest schema."""
    made = postgres.database(migrated_database)
    yield made
    postgres.drop(made)


@pytest.fixture
def stores(url: str) -> Iterator[list[RegistryStore]]:
    """Two routers' stores of one registry."""
    with ExitStack() as stack:
        yield [stack.enter_context(closing(open_store(url))) for _ in range(2)]


# --- the URL --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg", "postgresql+psycopg2"])
def test_every_usual_url_is_taken(url: str, scheme: str) -> None:
    """However a provider of databases writes it, the driver is the one that is installed."""
    with closing(open_store(url.replace("postgresql", scheme, 1))) as store:
        assert store.revision() == 0


def test_parameters_of_the_url_win(url: str) -> None:
    """What the router tells libpq is a default."""
    with closing(open_store(url)) as ours, closing(open_store(url + "?application_name=mine")) as theirs:
        names = []
        for store in (ours, theirs):
            with store.database.reading() as connection:
                names.append(connection.execute(text("SHOW application_name")).scalar())
    assert names == ["inference-router", "mine"]


@pytest.mark.parametrize(
    "bad",
    [
        "postgresql://me:hunter2/x@host/db",
        "postgresql://me:hunter2@host:port/db",
        "postgresql:///:hunter2@",
        "mysql://me:hunter2@host/db",
        "nonsense://me:hunter2@host/db",
        "://hunter2",
        "postgresql://me:hunter2@127.0.0.1:1/db",
    ],
)
def test_a_url_that_cannot_work_is_refused_without_its_password(bad: str) -> None:
    """Neither the sentence nor a traceback of it quotes the password, or any part of it."""
    with pytest.raises(StoreError) as caught:
        open_store(bad)
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


def test_a_wrong_password_is_told_and_not_shown(postgres: PostgresProcess) -> None:
    """The server's reason is passed on; what was sent is not."""
    wrong = postgres.url().replace(postgres.url().split("@")[0].rpartition(":")[2], "hunter2")
    with pytest.raises(StoreError, match="password authentication failed") as caught:
        open_store(wrong)
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


# --- migrations ---------------------------------------------------------------------------------------------


def test_routers_that_start_at_once_migrate_once(postgres: PostgresProcess) -> None:
    """Replicas that meet an empty database all start; the tables are made once."""
    empty = postgres.database()
    gate = threading.Barrier(6)

    def start() -> None:
        gate.wait()
        open_store(empty).close()

    with ThreadPoolExecutor(6) as pool:
        for started in [pool.submit(start) for _ in range(6)]:
            started.result()
    with postgres.connect(empty) as connection:
        assert connection.execute("SELECT id, revision FROM registry_state").fetchall() == [(1, 0)]
    postgres.drop(empty)


def test_a_failed_migration_changes_nothing(postgres: PostgresProcess) -> None:
    """A migration that cannot be done is taken back whole, so that the next start finds what was there."""
    half = postgres.database()
    with postgres.connect(half) as connection:
        connection.execute("CREATE TABLE usage (mine integer)")
        with pytest.raises(StoreError, match="already exists"):
            open_store(half)
        found = connection.execute("SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'")
        assert found.fetchall() == [("usage",)]
    postgres.drop(half)


def test_a_running_router_works_on_a_newer_schema(postgres: PostgresProcess, url: str) -> None:
    """What a newer router adds does not disturb an older one in mid-rollout; only a start of it refuses."""
    with closing(open_store(url)) as old:
        old.apply(parse_manifest(FIRST))
        with postgres.connect(url) as newer:
            for table in ("backends", "models", "deployments", "policies", "api_keys", "agents", "usage"):
                newer.execute(f"ALTER TABLE {table} ADD COLUMN colour TEXT")
            newer.execute("UPDATE alembic_version SET version_num = '9999'")
        made = old.create_key("a")
        old.apply(parse_manifest(SECOND))
        old.replace_discovered(FoundBackend("f", "openai", "http://f/v1", "external"), [FoundModel("found")])
        catalog = build_catalog(old.load())
        assert {"second", "found"} <= set(catalog.models)
        assert catalog.caller(made.key) is not None
        with closing(UsageWriter(old, Path("/dev/null/none"), interval=0)) as writer:
            writer.write(outcome("r1"))
        assert ids(url) == ["r1"]
        with pytest.raises(StoreError, match="newer than this program"):
            open_store(url)


# --- several routers ---------------------------------------------------------------------------------------


async def test_routers_see_each_others_changes(stores: list[RegistryStore]) -> None:
    """A key made and a manifest applied by one are in the next catalog of the other."""
    ours, theirs = stores
    source = CatalogSource(theirs, interval=0.01)
    await source.refresh()
    running = asyncio.ensure_future(source.run())
    try:
        made = ours.create_key("a")
        await eventually(lambda: source.current.caller(made.key) is not None)
        ours.apply(parse_manifest(FIRST))
        await eventually(lambda: "first" in source.current.models)
        ours.revoke_key(made.id)
        await eventually(lambda: source.current.caller(made.key) is None)
    finally:
        running.cancel()


def _together(*works: Callable[[], object]) -> None:
    """Do several things at the same time, each several times."""
    gate = threading.Barrier(len(works))

    def repeat(work: Callable[[], object]) -> None:
        gate.wait()
        for _ in range(8):
            work()

    with ThreadPoolExecutor(len(works)) as pool:
        for done in [pool.submit(repeat, work) for work in works]:
            done.result()


def test_writers_of_the_same_rows_wait_for_each_other(stores: list[RegistryStore]) -> None:
    """Two routers that find, declare and register the same at once neither fail nor leave half of anything."""
    flip = [0, 0]
    backend = FoundBackend("llmd", "openai", "http://gateway/v1", "cluster")
    agent = Announcement("id-1", "mac", "http://mac:5000", ({"id": "local"},))

    def find(number: int) -> None:
        flip[number] += 1
        stores[number].replace_discovered(backend, [FoundModel("base"), FoundModel(f"lora-{flip[number] % 3}")])

    _together(
        lambda: find(0),
        lambda: find(1),
        lambda: stores[0].apply(parse_manifest(FIRST)),
        lambda: stores[1].apply(parse_manifest(SECOND)),
        lambda: stores[0].register_agent(agent),
        lambda: stores[1].register_agent(agent),
    )
    catalog = build_catalog(stores[0].load())
    assert catalog.models["common"].fallbacks in (("first",), ("second",))
    assert "base" in catalog.models
    assert len(stores[0].agents()) == 1


def test_a_catalog_is_read_from_one_moment(stores: list[RegistryStore]) -> None:
    """What another router changes between two statements of a reader is not in what it reads."""
    stores[0].apply(parse_manifest(FIRST))
    names = "SELECT id FROM models ORDER BY id"
    with stores[1].database.reading() as connection:
        before = connection.execute(text(names)).scalars().all()
        stores[0].apply(parse_manifest(SECOND))
        assert connection.execute(text(names)).scalars().all() == before == ["common", "first"]
    with stores[1].database.reading() as connection:
        assert connection.execute(text(names)).scalars().all() == ["common", "second"]


def test_usage_is_written_beside_a_long_change(stores: list[RegistryStore], url: str) -> None:
    """A router that holds the registry for a change holds up nobody's accounting."""
    with stores[0].database.writing() as connection:
        connection.execute(text("UPDATE registry_state SET revision = revision"))
        with closing(UsageWriter(stores[1], Path("/dev/null/none"), interval=0)) as writer:
            writer.write(outcome("r1"))
            assert writer.flush(30)
    assert ids(url) == ["r1"]


def test_a_router_that_hangs_gives_the_lock_back(stores: list[RegistryStore]) -> None:
    """The server ends a change whose router has gone silent, and a router does not wait for ever for it."""
    with stores[0].database.writing() as connection:
        limits = [
            connection.execute(text(f"SHOW {name}")).scalar()
            for name in ("idle_in_transaction_session_timeout", "lock_timeout")
        ]
    assert limits == ["30s", "1min"]


def test_connections_are_few(stores: list[RegistryStore], postgres: PostgresProcess, url: str) -> None:
    """However much a router wants at once, it takes five of the server's connections."""
    peak = 0
    gate = threading.Barrier(12)

    def hold() -> None:
        gate.wait()
        with stores[0].database.reading() as connection:
            connection.execute(text("SELECT pg_sleep(0.05)"))

    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND pid <> pg_backend_pid()"
    with postgres.connect() as connection, ThreadPoolExecutor(12) as pool:
        works = [pool.submit(hold) for _ in range(12)]
        while not all(work.done() for work in works):
            found = connection.execute(query, [url.rpartition("/")[2]]).fetchone()
            assert found is not None
            peak = max(peak, found[0])
        for work in works:
            work.result()
    assert peak <= 5 + 2  # and what the other store keeps open


# --- a server that comes and goes ------------------------------------------------------------------------------


async def test_a_restart_of_the_server_is_survived(
    own_postgres: PostgresProcess, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """While it is away the last catalog stays in force and rows wait; afterwards all is as before, unasked."""
    caplog.set_level(logging.INFO)
    url = own_postgres.database()
    with closing(open_store(url)) as store:
        made = store.create_key("a")
        source = CatalogSource(store, interval=0.01)
        await source.refresh()
        running = asyncio.ensure_future(source.run())
        writer = UsageWriter(store, tmp_path / "models.db", interval=0, retry=0.01)
        try:
            own_postgres.kill()
            await eventually(lambda: source.problem is not None)
            writer.write(outcome("r1"))
            assert source.current.caller(made.key) is not None
            with pytest.raises(StoreError):
                store.create_key("b")
            await asyncio.to_thread(own_postgres.start)
            await eventually(lambda: source.problem is None)
            assert await asyncio.to_thread(writer.flush, 30)
        finally:
            running.cancel()
            writer.close()
    assert ids(url) == ["r1"]
    assert PASSWORD not in caplog.text
    told = [record.message for record in caplog.records if record.name.endswith("catalog")]
    assert told[-1] == "the registry is read again"
    assert len(told) <= 4  # once for each reason: gone, refusing, starting up


@pytest.mark.skipif(sys.platform != "linux", reason="a server is frozen by way of /proc")
async def test_a_frozen_server_holds_up_nothing_but_the_registry(own_postgres: PostgresProcess) -> None:
    """A server that hangs keeps one thread waiting; once it goes on, so does everything."""
    url = own_postgres.database()
    with closing(open_store(url)) as store:
        made = store.create_key("a")
        source = CatalogSource(store)
        await source.refresh()
        own_postgres.freeze()
        looking = asyncio.ensure_future(source.refresh())
        await asyncio.wait({looking}, timeout=0.2)
        assert not looking.done()
        assert source.current.caller(made.key) is not None
        own_postgres.resume()
        await looking
        assert source.problem is None


def test_close_waits_a_moment_for_a_server_that_restarts(own_postgres: PostgresProcess, tmp_path: Path) -> None:
    """A rollout while the database fails over loses no rows, though the journals go with the container."""
    url = own_postgres.database()
    with closing(open_store(url)) as store:
        writer = UsageWriter(store, tmp_path / "models.db", interval=0, retry=0.01, farewell=60)
        assert writer.flush(30)
        own_postgres.kill()
        writer.write(outcome("r1"))
        closing_ = threading.Thread(target=writer.close)
        closing_.start()
        own_postgres.start()
        closing_.join()
    assert ids(url) == ["r1"]
    assert list(tmp_path.iterdir()) == []


def test_a_missing_driver_is_named(url: str) -> None:
    """Where the extra is not installed, the sentence names it."""
    program = (
        "import sys; sys.modules['psycopg'] = None\n"
        "from router.registry.store import StoreError, open_store\n"
        "try: open_store(sys.argv[1])\n"
        "except StoreError as error: print(error)"
    )
    ended = subprocess.run([sys.executable, "-c", program, url], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "inference-router[postgres]" in ended.stdout
