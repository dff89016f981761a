"""Opening the registry's database: engine, pragmas, transactions and migration to head."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, inspect, make_url, text
from sqlalchemy.exc import (
    ArgumentError,
    DataError,
    DisconnectionError,
    IntegrityError,
    SQLAlchemyError,
    StatementError,
)
from sqlalchemy.pool import QueuePool

import router.migrations
from router.registry import schema

__all__ = ["MIGRATIONS", "Database", "StoreError", "file_identity", "migrate", "open_database"]

MIGRATIONS = Path(next(iter(router.migrations.__path__)))
"""The migrations travel inside the package."""

_BUSY_TIMEOUT = 5.0
_MIGRATION_TIMEOUT = 60.0
_LOCK = text(
    # A router that hangs, or whose machine is gone, gives the lock back; one that waits for it gives up.
    "SELECT set_config('idle_in_transaction_session_timeout', '30s', true), set_config('lock_timeout', '60s', true),"
    f" pg_advisory_xact_lock({0x726F75746572})"  # any number, the same in every process
)
_SERVER_OPTIONS: dict[str, Any] = {
    "application_name": "inference-router",
    "connect_timeout": 5,
    # A server whose machine is gone says no goodbye: without these, a statement waits for it for a quarter of an hour.
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
    # A pool of connections between us and the server (PgBouncer) may not know our prepared statements.
    "prepare_threshold": None,
}
"""What libpq and its driver are told; the URL's own parameters win."""
_SERVER_CONNECTIONS = (2, 3)
"""What one process keeps open, and opens beyond that: all processes of all replicas share the server's hundred."""


class StoreError(Exception):
    """The database is away, locked, full or damaged; the message is one sentence.

    Args:
        message: The sentence.
        about_rows: Whether the database works and refuses these very rows.
    """

    def __init__(self, message: str, *, about_rows: bool = False) -> None:
        super().__init__(message)
        self.about_rows = about_rows


@dataclass(frozen=True, slots=True)
class Database:
    """An open database.

    Args:
        engine: The pooled engine.
        path: The SQLite file; None for a server.
    """

    engine: Engine
    path: Path | None

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Yield a connection in one read transaction, in which every statement sees the same state.

        Raises:
            StoreError: The database does not answer.
        """
        options = {} if self.path is not None else {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
        with _translated(), self.engine.execution_options(**options).begin() as connection:
            yield connection

    @contextmanager
    def glancing(self) -> Iterator[Connection]:
        """Yield a connection for one statement, without the cost of a transaction on a server.

        Raises:
            StoreError: The database does not answer.
        """
        with _translated(), self.engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
            yield connection

    @contextmanager
    def writing(self, *, alone: bool = True) -> Iterator[Connection]:
        """Yield a connection in one write transaction, committed at the end.

        Args:
            alone: Whether to wait for others that write alone, in whatever process. SQLite has one writer anyway.

        Raises:
            StoreError: The database does not answer; nothing was written.
        """
        with _translated(), self.engine.execution_options(sqlite_write=True).begin() as connection:
            if alone and self.path is None:
                connection.execute(_LOCK)
            yield connection

    def close(self) -> None:
        """Close the pooled connections."""
        self.engine.dispose()


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (SQLAlchemyError, OverflowError, UnicodeError) as error:
        reason = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
        refused = (IntegrityError, DataError, OverflowError, UnicodeError)
        # A StatementError of its own class is a value that could not even be sent.
        about_rows = isinstance(error, refused) or type(error) is StatementError
        raise StoreError(f"The registry's database cannot be used: {reason}.", about_rows=about_rows) from error


def open_database(path_or_url: str | Path) -> Database:
    """Open a SQLite file or a database URL and migrate it to the newest schema.

    The parent directory of a file is created. Safe when several processes start at once.

    Args:
        path_or_url: A file path, or an SQLAlchemy URL (`postgresql://…`, `sqlite:///…`).

    Raises:
        StoreError: It cannot be opened, is damaged, or is newer than this program.
    """
    text_form = str(path_or_url)
    if "://" in text_form:
        try:
            url = make_url(text_form)
        except (ArgumentError, ValueError):
            # Not from the error, which may quote what follows a password's colon.
            raise StoreError(
                "DATABASE_URL is not a database URL: it is postgresql://USER:PASSWORD@HOST:PORT/NAME, and"
                " in the password every character but letters and digits is percent-encoded."
            ) from None
        if url.get_backend_name() != "sqlite":
            return _open_server(url)
        text_form = url.database or ""
    if not text_form or text_form == ":memory:":
        raise StoreError("The registry needs a file: every worker and the command line open it on their own.")
    path = Path(text_form).expanduser().absolute()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)  # it holds key digests and who asked what
    except OSError as error:
        raise StoreError(f"The registry's file {path} cannot be created: {error.strerror}.") from error
    database = Database(_sqlite_engine(path), path)
    try:
        _switch_to_wal(path)
        migrate(database)
    except sqlite3.Error as error:
        database.close()
        raise StoreError(f"The registry's file {path} cannot be used: {error}.") from error
    except BaseException:
        database.close()
        raise
    return database


def _open_server(url: URL) -> Database:
    if url.get_backend_name() not in ("postgresql", "postgres"):
        raise StoreError("DATABASE_URL names a kind of database that is not supported; use postgresql://.")
    kept, more = _SERVER_CONNECTIONS
    try:
        engine = create_engine(
            url.set(drivername="postgresql+psycopg"),
            pool_pre_ping=True,
            pool_size=kept,
            max_overflow=more,
            connect_args={name: value for name, value in _SERVER_OPTIONS.items() if name not in url.query},
        )
    except ModuleNotFoundError as error:
        raise StoreError(f"The driver {error.name} is missing: install inference-router[postgres].") from error
    database = Database(engine, None)
    try:
        migrate(database)
    except BaseException:
        database.close()
        raise
    return database


def _sqlite_engine(path: Path) -> Engine:
    def connect() -> sqlite3.Connection:
        # mode=rw: a file removed at run time is an error, not an empty registry in which every door is open.
        return sqlite3.connect(
            f"{path.as_uri()}?mode=rw", uri=True, timeout=_BUSY_TIMEOUT, isolation_level=None, check_same_thread=False
        )

    engine = create_engine("sqlite://", creator=connect, pool_size=4, max_overflow=12, poolclass=QueuePool)

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, record: Any) -> None:
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA synchronous = NORMAL")
        record.info["file"] = file_identity(path)

    @event.listens_for(engine, "checkout")
    def same_file(_connection: Any, record: Any, _proxy: Any) -> None:
        # A connection outlives its file: without this check writes would go into a deleted one.
        if record.info.get("file") != file_identity(path):
            raise DisconnectionError("the registry's file was replaced")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # A transaction that upgrades from read to write fails at once when another has written
        # meanwhile, whatever the busy timeout; one that is a writer from its start waits.
        write = connection.get_execution_options().get("sqlite_write", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")

    return engine


def file_identity(path: Path) -> tuple[int, int] | None:
    """Return what tells a file from another of the same name, or None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _switch_to_wal(path: Path) -> None:
    """Set the journal mode, which the file remembers.

    The switch does not wait for a lock as other statements do, hence the loop.
    """
    deadline = time.monotonic() + _MIGRATION_TIMEOUT
    connection = sqlite3.connect(path, timeout=_BUSY_TIMEOUT, isolation_level=None)
    try:
        while True:
            try:
                connection.execute("PRAGMA journal_mode = WAL")
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
            else:
                return
    finally:
        connection.close()


def migrate(database: Database) -> None:
    """Bring the schema to head; a second process that migrates at the same time waits.

    Alembic is loaded only where there is something to migrate: it takes longer to import than the rest of
    the registry and stays in memory. A new SQLite file gets the newest schema at once.

    Raises:
        StoreError: The migration failed (nothing was changed) or the schema is newer than this program.
    """
    known = sorted(path.name.partition("_")[0] for path in MIGRATIONS.glob("versions/[0-9]*.py"))
    head = known[-1]
    with database.reading() as connection:
        if _schema_revision(connection) == head:
            return
    with database.writing() as connection:
        current = _schema_revision(connection)
        if current == head:
            return
        if current is not None and current not in known:
            raise StoreError(f"The registry's schema {current} is newer than this program, which knows {head}.")
        if database.path is not None and not inspect(connection).get_table_names():
            schema.create(connection, head)
            return
        from router.registry.migration import upgrade  # noqa: PLC0415 - see above

        upgrade(connection)


def _schema_revision(connection: Connection) -> str | None:
    """Return where Alembic left the schema, or None where it never was."""
    if not connection.dialect.has_table(connection, "alembic_version"):
        return None
    revision: str | None = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    return revision
