"""All the SQL of the registry, synchronous: the router calls it in threads, the command line directly."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict
from pathlib import Path

from sqlalchemy import Connection, Table, delete, insert, select, update

from router.registry import announced, schema
from router.registry.build import build_catalog
from router.registry.database import Database, StoreError, open_database
from router.registry.declared import Change, changes_between, manifest_of, no_longer_asked, to_be_asked, write_manifest
from router.registry.found import after_look, found_as, note_missed, now_ms, remove_found, replace_found
from router.registry.keys import make_key
from router.registry.manifest import Manifest
from router.registry.revision import RevisionReader, Stamp, Trace
from router.registry.rows import (
    Announcement,
    Beat,
    FoundBackend,
    FoundModel,
    Look,
    NewKey,
    Row,
    Rows,
    Source,
    UsageTotal,
)
from router.registry.totals import usage_totals
from router.registry.usage_rows import UsageRow, insert_rows

__all__ = ["RegistryStore", "StoreError", "open_store"]


def open_store(path_or_url: str | Path) -> RegistryStore:
    """Open the registry and migrate it to the newest schema.

    Raises:
        StoreError: It cannot be opened; the message says why.
    """
    return RegistryStore(open_database(path_or_url))


class RegistryStore:
    """The registry in its database; safe to use from several threads.

    Args:
        database: An open, migrated database.
    """

    def __init__(self, database: Database) -> None:
        self.database = database
        self._revision = RevisionReader(database)

    def close(self) -> None:
        """Close every connection."""
        self._revision.close()
        self.database.close()

    # --- reading ------------------------------------------------------------------------------

    def revision(self) -> int:
        """Return the number that grows with every change of what a catalog is built from; cheap.

        Raises:
            StoreError: The database does not answer.
        """
        return self._revision.read()[1]

    def stamp(self) -> Stamp:
        """Return what is the same only as long as a catalog would be; cheap.

        Raises:
            StoreError: The database does not answer.
        """
        return self._revision.read()

    def trace(self) -> Trace | None:
        """Return what is another after every change, without asking the database; None where that cannot be told."""
        return self._revision.trace()

    def load(self) -> Rows:
        """Read everything that a catalog is built from.

        Raises:
            StoreError: The database does not answer.
        """
        with self.database.reading() as connection:
            return _load(connection)

    # --- what is declared -----------------------------------------------------------------------

    def apply(self, manifest: Manifest) -> tuple[Change, ...]:
        """Make a manifest the whole declared state, in one transaction; return what that changed.

        Raises:
            InvalidCatalog: No catalog can be built from it; nothing was changed.
            StoreError: The database does not answer; nothing was changed.
        """
        with self.database.writing() as connection:
            before = _load(connection)
            old = manifest_of(before)
            write_manifest(connection, manifest, before, now_ms())
            for name in no_longer_asked(before, manifest):
                remove_found(connection, name, "discovery")
            after = _load(connection)
            new = manifest_of(after)
            build_catalog(after)
            if new != old:
                bump(connection)
        return changes_between(old, new)

    def export(self) -> Manifest:
        """Return the declared state."""
        return manifest_of(self.load())

    # --- what is found by itself ----------------------------------------------------------------

    def replace_discovered(
        self,
        backend: FoundBackend,
        models: Sequence[FoundModel] | None,
        *,
        named: Collection[str] = (),
        patience: int = 1,
    ) -> bool:
        """Make a discovered backend serve what a look at it found.

        Args:
            backend: The backend.
            models: What it listed; None: it did not, and whatever is known of it stays.
            named: Models that it serves whether it lists them or not.
            patience: After how many looks in a row a model that is not found is gone.

        Returns:
            Whether anything changed.
        """
        with self.database.reading() as connection:
            served, missed = after_look(connection, backend, models, named, patience)
            known = found_as(connection, backend, served, "discovery")
            if known and not note_missed(connection, backend, missed, write=False):
                return False
        with self.database.writing() as connection:
            served, missed = after_look(connection, backend, models, named, patience)
            if found_as(connection, backend, served, "discovery"):
                note_missed(connection, backend, missed, write=True)
                return False
            replace_found(connection, backend, served, "discovery", missed)
            bump(connection)
        return True

    def forget_discovered(self, keep: Collection[str], since: int | None = None) -> list[str]:
        """Remove the discovered backends that are not named in `keep`, and return their names.

        Args:
            keep: Names that stay.
            since: Those that anybody has looked at from this moment on stay too, in milliseconds since the epoch.
        """
        table, looks = schema.backends, schema.looks
        spared = list(keep)
        if since is not None:
            with self.database.reading() as connection:
                spared += connection.execute(select(looks.c.backend).where(looks.c.looked_at >= since)).scalars()
        unseen = looks.c.backend.not_in(spared)
        gone = select(table.c.name).where(table.c.source == "discovery", table.c.name.not_in(spared))
        with self.database.reading() as connection:
            if not connection.execute(gone).first() and not connection.execute(select(looks).where(unseen)).first():
                return []
        with self.database.writing() as connection:
            connection.execute(delete(looks).where(unseen))
            names = list(connection.execute(gone).scalars())
            for name in names:
                remove_found(connection, name, "discovery")
            if names:
                bump(connection)
        return names

    def note_look(self, look: Look) -> None:
        """Write down what became of a look at a source; no catalog is built from it."""
        table = schema.looks
        values = asdict(look)
        with self.database.writing() as connection:
            if look.listed_at is None:
                listed = select(table.c.listed_at).where(
                    table.c.backend == look.backend, table.c.base_url == look.base_url
                )
                values["listed_at"] = connection.execute(listed).scalar()
            connection.execute(delete(table).where(table.c.backend == look.backend))
            connection.execute(insert(table).values(values))

    def looks(self) -> tuple[Look, ...]:
        """Return what became of the last look at each source."""
        with self.database.reading() as connection:
            return tuple(Look(**row) for row in _all(connection, schema.looks, "backend"))

    def declared_sources(self) -> list[FoundBackend]:
        """Return the declared backends that are asked what they serve, as found ones."""
        table = schema.backends
        query = select(table).where(table.c.source == "manifest", table.c.discover.is_(True)).order_by(table.c.position)
        with self.database.reading() as connection:
            return [to_be_asked(dict(row)) for row in connection.execute(query).mappings()]

    def set_accepts_messages(self, backend: str, source: Source, accepts: bool) -> bool:
        """Note whether a backend takes `messages`; return whether that is news."""
        table = schema.backends
        here = (table.c.name == backend, table.c.source == source)
        with self.database.reading() as connection:
            if connection.execute(select(table.c.accepts_messages).where(*here)).scalar() in (None, accepts):
                return False
        with self.database.writing() as connection:
            changed = connection.execute(
                update(table).where(*here, table.c.accepts_messages != accepts).values(accepts_messages=accepts)
            )
            if changed.rowcount > 0:
                bump(connection)
        return changed.rowcount > 0

    def declared_agents(self) -> list[tuple[str, str, str | None]]:
        """Return name, base URL and key variable of each declared backend that is a local agent."""
        table = schema.backends
        query = select(table.c.name, table.c.base_url, table.c.api_key_env).where(
            table.c.source == "manifest", table.c.dialect == "local_agent"
        )
        with self.database.reading() as connection:
            return [(row.name, row.base_url, row.api_key_env) for row in connection.execute(query)]

    # --- agents ---------------------------------------------------------------------------------

    def register_agent(self, announcement: Announcement, now: int | None = None) -> str:
        """Take in an agent with its models, seen just `now`, and return its backend's name."""
        with self.database.writing() as connection:
            name = announced.choose_backend(connection, announcement)
            old = announced.displaced(connection, announcement, name)
            backend, models = announced.agent_backend(announcement, name), announced.agent_models(announcement)
            news = [row["backend"] for row in old] != [name] or any(row["stale"] for row in old)
            announced.upsert_agent(connection, announcement, name, old, now_ms() if now is None else now)
            if news or not found_as(connection, backend, models, "agent"):
                for row in old:
                    if row["backend"] != name:
                        remove_found(connection, row["backend"], "agent")
                replace_found(connection, backend, models, "agent")
                bump(connection)
        return name

    def agents(self) -> tuple[Row, ...]:
        """Return every agent's row."""
        with self.database.reading() as connection:
            return _all(connection, schema.agents, "name", "id")

    def write_beats(self, beats: Sequence[Beat]) -> None:
        """Note when agents were last seen; a stale one is back by that."""
        with self.database.writing() as connection:
            if announced.write_beats(connection, beats):
                bump(connection)

    def mark_stale(self, ids: Collection[str]) -> None:
        """Note that agents have gone silent."""
        table = schema.agents
        with self.database.writing() as connection:
            gone = update(table).where(table.c.id.in_(list(ids)), table.c.stale.is_(False)).values(stale=True)
            if connection.execute(gone).rowcount > 0:
                bump(connection)

    def remove_agent(self, id: str) -> None:  # noqa: A002 - the column's name
        """Forget an agent and its backend."""
        table = schema.agents
        with self.database.writing() as connection:
            backend = connection.execute(select(table.c.backend).where(table.c.id == id)).scalar()
            if backend is not None:
                connection.execute(delete(table).where(table.c.id == id))
                remove_found(connection, backend, "agent")
                bump(connection)

    # --- keys -----------------------------------------------------------------------------------

    def create_key(self, name: str, models: Sequence[str] = ("*",), objective: str | None = None) -> NewKey:
        """Make a key; only its SHA-256 is kept.

        Args:
            name: What people call it.
            models: Globs of the models and policies that it may use.
            objective: What a cluster's scheduler is told of its requests; see `objective_name`.
        """
        made, row = make_key(name, models, now_ms(), objective)
        with self.database.writing() as connection:
            connection.execute(insert(schema.api_keys).values(row))
            bump(connection)
        return made

    def api_keys(self) -> tuple[Row, ...]:
        """Return every key's row, revoked ones too."""
        with self.database.reading() as connection:
            return _all(connection, schema.api_keys, "created_at", "id")

    def revoke_key(self, id: str) -> Row | None:  # noqa: A002 - the column's name
        """Revoke a key for good; return its row, or None where there is no such key."""
        table = schema.api_keys
        with self.database.writing() as connection:
            connection.execute(
                update(table).where(table.c.id == id, table.c.revoked_at.is_(None)).values(revoked_at=now_ms())
            )
            row = connection.execute(select(table).where(table.c.id == id)).mappings().first()
            if row is not None:
                bump(connection)
        return None if row is None else dict(row)

    # --- usage ----------------------------------------------------------------------------------

    def insert_usage(self, rows: Sequence[UsageRow]) -> None:
        """Insert usage rows in one transaction; a request that is there already stays as it is.

        Raises:
            StoreError: The database does not answer; nothing was written.
        """
        if not rows:
            return
        with self.database.writing(alone=False) as connection:
            insert_rows(connection, rows)

    def usage_totals(self, since: int | None = None) -> tuple[UsageTotal, ...]:
        """Return the totals of each caller and model, the costliest first.

        Args:
            since: Only requests from this moment on, in milliseconds since the epoch.
        """
        with self.database.reading() as connection:
            return usage_totals(connection, since)


# --- pieces that work inside a caller's transaction ----------------------------------------------


def bump(connection: Connection) -> None:
    """Count a change, so that every catalog is rebuilt."""
    state = schema.registry_state
    connection.execute(update(state).values(revision=state.c.revision + 1))


def _load(connection: Connection) -> Rows:
    return Rows(
        revision=connection.execute(select(schema.registry_state.c.revision)).scalar_one(),
        backends=_all(connection, schema.backends, "source", "position", "name"),
        models=_all(connection, schema.models, "source", "position", "id", "origin"),
        deployments=_all(connection, schema.deployments, "source", "position", "id"),
        policies=_all(connection, schema.policies, "position", "name"),
        keys=_all(connection, schema.api_keys, "created_at", "id"),
        agents=_all(connection, schema.agents, "name", "id"),
    )


def _all(connection: Connection, table: Table, *order: str) -> tuple[Row, ...]:
    rows = connection.execute(select(table).order_by(*(table.c[name] for name in order))).mappings()
    return tuple(dict(row) for row in rows)
