"""The registry's tables (SQLAlchemy Core), for SQLite and PostgreSQL.

Money is exact decimal text, never a float. Times are whole milliseconds since the epoch.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Connection,
    Dialect,
    Float,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    insert,
    text,
)
from sqlalchemy.types import TypeDecorator

__all__ = [
    "DecimalText",
    "agents",
    "api_keys",
    "backends",
    "create",
    "decisions",
    "deployments",
    "feedback",
    "looks",
    "metadata",
    "models",
    "policies",
    "registry_state",
    "usage",
]


class DecimalText(TypeDecorator[Decimal]):
    """A `Decimal` kept as plain decimal text, so that no digit is lost."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Decimal | None, dialect: Dialect) -> str | None:  # noqa: ARG002
        """Return the text to store."""
        return None if value is None else format(value, "f")

    def process_result_value(self, value: Any, dialect: Dialect) -> Decimal | None:  # noqa: ARG002
        """Return the number read."""
        return None if value is None else Decimal(value)


metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

registry_state = Table(
    "registry_state",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),  # the one row is 1
    Column("revision", BigInteger, nullable=False),
)

# A name may be declared and discovered at once: the declared row shadows the other in the catalog.
backends = Table(
    "backends",
    metadata,
    Column("name", Text, primary_key=True),
    Column("source", Text, primary_key=True),  # manifest | discovery | agent
    Column("position", Integer, nullable=False, default=0),  # the order of the file
    Column("dialect", Text, nullable=False),
    Column("base_url", Text, nullable=False),
    Column("tier", Text, nullable=False),
    Column("api_key_env", Text),  # the name of a variable, never a secret
    Column("timeouts", JSON, nullable=False),  # only what is set
    Column("breaker", JSON, nullable=False),
    Column("forward_headers", JSON, nullable=False),
    Column("accepts_messages", Boolean, nullable=False, default=False),
    Column("key_header", Text),
    Column("endpoints", JSON),
    Column("discover", Boolean),  # whether a declared one is asked what it serves; null: no
)

models = Table(
    "models",
    metadata,
    Column("id", Text, primary_key=True),
    Column("origin", Text, primary_key=True),  # the backend that reported it; empty: declared
    Column("source", Text, nullable=False),
    Column("position", Integer, nullable=False, default=0),
    Column("aliases", JSON, nullable=False),
    Column("context_length", BigInteger),
    Column("max_output_tokens", BigInteger),
    Column("capabilities", JSON, nullable=False),
    Column("quality", JSON, nullable=False),
    Column("fallbacks", JSON, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("parent", Text),  # the model that this one is an adapter of
    Column("missed", Integer),  # looks in a row that did not find it; null: none
)

deployments = Table(
    "deployments",
    metadata,
    Column("id", Text, primary_key=True),
    Column("source", Text, primary_key=True),
    Column("position", Integer, nullable=False, default=0),
    Column("model", Text, nullable=False),
    Column("origin", Text, nullable=False),
    Column("backend", Text, nullable=False),
    Column("upstream_model", Text, nullable=False),
    Column("price_input", DecimalText),  # USD per million tokens
    Column("price_cached_input", DecimalText),
    Column("price_output", DecimalText),
    Column("max_concurrency", BigInteger),
    Column("rpm", BigInteger),
    Column("tpm", BigInteger),
    Column("weight", Float, nullable=False),
    Column("priority", Integer, nullable=False),
    ForeignKeyConstraint(["model", "origin"], ["models.id", "models.origin"], ondelete="CASCADE"),
    ForeignKeyConstraint(["backend", "source"], ["backends.name", "backends.source"], ondelete="CASCADE"),
    Index(None, "model", "origin"),
    Index(None, "backend", "source"),
)

policies = Table(
    "policies",
    metadata,
    Column("name", Text, primary_key=True),
    Column("source", Text, nullable=False),
    Column("position", Integer, nullable=False, default=0),
    Column("candidates", JSON, nullable=False),
    Column("weights", JSON, nullable=False),
    Column("constraints", JSON, nullable=False),  # money as text
    Column("hedge", JSON(none_as_null=True)),  # only what is set; null: off
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("sha256", Text, nullable=False, unique=True),
    Column("prefix", Text, nullable=False),  # its first characters, to recognise it by
    Column("models", JSON, nullable=False),  # globs
    Column("created_at", BigInteger, nullable=False),
    Column("revoked_at", BigInteger),
    Column("objective", Text),  # what the cluster's scheduler is told of its requests
)

agents = Table(
    "agents",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("url", Text, nullable=False, unique=True),
    Column("backend", Text, nullable=False, unique=True),
    Column("version", Text),
    Column("device", Text),
    Column("models", JSON, nullable=False),  # as it reported them
    Column("queued", Integer, nullable=False, default=0),
    Column("running", Integer, nullable=False, default=0),
    Column("stale", Boolean, nullable=False, default=False),
    Column("registered_at", BigInteger, nullable=False),
    Column("last_seen", BigInteger, nullable=False),
)

# What became of the last look at each source of models; no part of the catalog.
looks = Table(
    "looks",
    metadata,
    Column("backend", Text, primary_key=True),
    Column("base_url", Text, nullable=False),
    Column("state", Text, nullable=False),  # ok | empty | failed
    Column("detail", Text),
    Column("looked_at", BigInteger, nullable=False),
    Column("listed_at", BigInteger),  # when a list last came
)

usage = Table(
    "usage",
    metadata,
    Column("request_id", Text, primary_key=True),
    Column("decision_id", Text),
    Column("caller", Text, nullable=False),
    Column("caller_name", Text, nullable=False),
    Column("endpoint", Text, nullable=False),
    Column("asked", Text, nullable=False),
    Column("policy", Text),
    Column("model", Text),
    Column("deployment", Text),
    Column("backend", Text),
    Column("prompt_tokens", BigInteger),
    Column("completion_tokens", BigInteger),
    Column("cached_tokens", BigInteger),
    Column("reasoning_tokens", BigInteger),
    Column("usage_source", Text),  # reported | estimated
    Column("cost_usd", DecimalText),
    Column("status", Integer, nullable=False),
    Column("error", Text),
    Column("stream", Boolean, nullable=False),
    Column("cache", Text, nullable=False),
    Column("attempts", JSON, nullable=False),
    Column("first_token_ms", Float),
    Column("duration_ms", Float, nullable=False),
    Column("overhead_ms", Float, nullable=False),
    Column("created_at", BigInteger, nullable=False, index=True),
)

decisions = Table(
    "decisions",
    metadata,
    Column("id", Text, primary_key=True),
    Column("request_id", Text, nullable=False, index=True),
    Column("caller", Text, nullable=False),
    Column("asked", Text, nullable=False),
    Column("policy", Text),
    Column("receipt", JSON, nullable=False),
    Column("created_at", BigInteger, nullable=False, index=True),
)

# Decisions are pruned by age and feedback is not, so feedback holds no foreign key to them.
feedback = Table(
    "feedback",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("decision_id", Text, nullable=False, index=True),
    Column("caller", Text, nullable=False),
    Column("score", Float, nullable=False),
    Column("comment", Text),
    Column("created_at", BigInteger, nullable=False),
)


def create(connection: Connection, revision: str) -> None:
    """Create in an empty database what its migrations up to `revision` would have led to."""
    metadata.create_all(connection)
    connection.execute(insert(registry_state).values(id=1, revision=0))
    connection.execute(
        text(
            "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL CONSTRAINT alembic_version_pkc PRIMARY KEY)"
        )
    )
    connection.execute(text("INSERT INTO alembic_version (version_num) VALUES (:revision)"), {"revision": revision})
