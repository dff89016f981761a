"""`routerctl`: the registry from the command line. It works on the database itself; no router need run."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from router.registry import views
from router.registry.catalog import Catalog, InvalidCatalog, build_catalog
from router.registry.keys import objective_name
from router.registry.manifest import InvalidManifest, dump_manifest, load_manifest, parse_manifest, plain
from router.registry.store import RegistryStore, StoreError, open_store
from router.settings import RouterSettings

__all__ = ["main"]

Command = Callable[[RegistryStore, argparse.Namespace], None]


class _Refused(Exception):
    """What was asked cannot be done; the message is one line for people."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code: 0 done, 1 failed, 2 misused."""
    arguments = _parser().parse_args(argv)
    command: Command = arguments.command
    try:
        with closing(open_store(_where())) as store:
            command(store, arguments)
        sys.stdout.flush()
    except (_Refused, StoreError, InvalidManifest, InvalidCatalog) as error:
        return _fail(str(error))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130
    except Exception as error:  # noqa: BLE001 - people get a line, not a traceback
        return _fail(f"internal error: {type(error).__name__}: {error}")
    return 0


def _fail(message: str) -> int:
    print(f"routerctl: {message}", file=sys.stderr)
    return 1


def _where() -> str | Path:
    try:
        settings = RouterSettings()
    except ValidationError as error:
        first = error.errors()[0]
        raise _Refused(f"the setting {first['loc'][0]} is not valid: {first['msg']}") from error
    return settings.database_url or settings.sqlite_db_path


# --- arguments ----------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print JSON")
    parser = argparse.ArgumentParser(
        prog="routerctl",
        description="Manage the router's registry: the file at SQLITE_DB_PATH, or the database at DATABASE_URL.",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def add(where: Any, name: str, command: Command | None, help_: str) -> argparse.ArgumentParser:
        made: argparse.ArgumentParser = where.add_parser(name, help=help_, description=help_, parents=[shared])
        if command is not None:
            made.set_defaults(command=command)
        return made

    apply = add(commands, "apply", _apply, "make a manifest the whole declared state")
    apply.add_argument("-f", "--file", required=True, metavar="FILE", help="YAML or JSON; - reads standard input")
    add(commands, "export", _export, "print the declared state as a manifest")
    for name, command in (("models", _models), ("backends", _backends), ("policies", _policies), ("agents", _agents)):
        group = add(commands, name, None, f"show {name}").add_subparsers(metavar="ACTION", required=True)
        add(group, "list", command, f"list {name}")
    keys = add(commands, "keys", None, "make, list and revoke API keys").add_subparsers(metavar="ACTION", required=True)
    create = add(keys, "create", _create_key, "make a key and show it, once")
    create.add_argument("--name", default="unnamed", help="what to call it")
    create.add_argument(
        "--models", nargs="+", default=["*"], metavar="GLOB", help="the models and policies it may use (default: all)"
    )
    create.add_argument(
        "--objective",
        type=_objective,
        metavar="NAME",
        help="the InferenceObjective that an llm-d cluster serves its requests by (default: none)",
    )
    add(keys, "list", _keys, "list keys")
    add(keys, "revoke", _revoke_key, "revoke a key for good").add_argument("id", metavar="ID", help="the key's id")
    usage = add(commands, "usage", _usage, "show requests, tokens and cost by key and model")
    usage.add_argument("--since", type=_moment, metavar="WHEN", help="30m, 24h, 7d, or a date such as 2026-01-31")
    return parser


def _moment(text: str) -> int:
    try:
        return views.parse_moment(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _objective(text: str) -> str:
    try:
        return objective_name(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


# --- commands -----------------------------------------------------------------------------------


def _apply(store: RegistryStore, arguments: argparse.Namespace) -> None:
    piped = arguments.file == "-"
    manifest = parse_manifest(sys.stdin.read(), "<stdin>") if piped else load_manifest(arguments.file)
    changes = store.apply(manifest)
    if arguments.json:
        _print_json(views.changes_view(changes))
    elif changes:
        _print_table([], [[change.action, change.kind, change.name] for change in changes])
    else:
        print("nothing to change")


def _export(store: RegistryStore, arguments: argparse.Namespace) -> None:
    manifest = store.export()
    if arguments.json:
        _print_json(plain(manifest))
    else:
        print(dump_manifest(manifest), end="")


def _models(store: RegistryStore, arguments: argparse.Namespace) -> None:
    shown = [views.model_view(model) for model in _catalog(store).models.values()]
    if arguments.json:
        _print_json(shown)
        return
    _print_table(
        ["MODEL", "CONTEXT", "INPUT $/M", "OUTPUT $/M", "BACKENDS", "ALIASES"],
        [
            [
                model["id"],
                model["context_length"],
                _cheapest(model["deployments"], "input"),
                _cheapest(model["deployments"], "output"),
                _joined(place["backend"] for place in model["deployments"]),
                _joined(model["aliases"]),
            ]
            for model in shown
        ],
    )


def _cheapest(deployments: list[dict[str, Any]], price: str) -> str | None:
    known = [place["price"][price] for place in deployments if place["price"][price] is not None]
    return f"{min(float(value) for value in known):g}" if known else None


def _backends(store: RegistryStore, arguments: argparse.Namespace) -> None:
    catalog = _catalog(store)
    shown = views.backends_view(catalog, store.looks())
    if arguments.json:
        _print_json(shown)
        return
    _print_table(
        ["BACKEND", "TIER", "DIALECT", "BASE URL", "KEY FROM", "MODELS", "STATE"],
        [
            [
                backend["name"],
                backend["tier"],
                backend["dialect"],
                backend["base_url"],
                backend["api_key_env"],
                len(backend["models"]),
                _state(backend),
            ]
            for backend in shown
        ],
    )


def _state(backend: dict[str, Any]) -> str:
    listing = backend["listing"]
    if backend["stale"]:
        return "stale"
    if listing is None or listing["state"] == "ok":
        return "ok"
    return "no workers yet" if listing["state"] == "empty" else f"not listed: {listing['detail']}"


def _policies(store: RegistryStore, arguments: argparse.Namespace) -> None:
    catalog = _catalog(store)
    shown = [views.policy_view(policy, catalog.members(policy)) for policy in catalog.policies.values()]
    if arguments.json:
        _print_json(shown)
        return
    _print_table(
        ["POLICY", "CANDIDATES", "WEIGHTS", "PRIVACY", "MODELS"],
        [
            [
                policy["name"],
                _joined(policy["candidates"]),
                _joined(f"{name} {weight:g}" for name, weight in policy["weights"].items()),
                policy["constraints"]["privacy"],
                len(policy["models"]),
            ]
            for policy in shown
        ],
    )


def _agents(store: RegistryStore, arguments: argparse.Namespace) -> None:
    shown = [views.agent_view(row) for row in store.agents()]
    if arguments.json:
        _print_json(shown)
        return
    fields = ("name", "backend", "state", "url", "device", "version", "queued", "running", "last_seen", "id")
    _print_table(
        ["AGENT", "BACKEND", "STATE", "URL", "DEVICE", "VERSION", "QUEUED", "RUNNING", "LAST SEEN", "ID"],
        [[agent[field] for field in fields] for agent in shown],
    )


def _create_key(store: RegistryStore, arguments: argparse.Namespace) -> None:
    made = views.new_key_view(store.create_key(arguments.name, arguments.models, arguments.objective))
    if arguments.json:
        _print_json(made)
        return
    shown = {**made, "models": _joined(made["models"])}
    fields = ("id", "name", "models", "objective", "key")
    _print_table([], [[field, shown[field]] for field in fields if shown[field] is not None])
    print("The key is not shown again.", file=sys.stderr)


def _keys(store: RegistryStore, arguments: argparse.Namespace) -> None:
    shown = [views.key_view(row) for row in store.api_keys()]
    if arguments.json:
        _print_json(shown)
        return
    _print_table(
        ["ID", "NAME", "KEY", "MODELS", "OBJECTIVE", "CREATED", "REVOKED"],
        [
            [
                key["id"],
                key["name"],
                f"{key['prefix']}…",
                _joined(key["models"]),
                key["objective"],
                key["created_at"],
                key["revoked_at"],
            ]
            for key in shown
        ],
    )


def _revoke_key(store: RegistryStore, arguments: argparse.Namespace) -> None:
    row = store.revoke_key(arguments.id)
    if row is None:
        raise _Refused(f"there is no key with the id {arguments.id!r}; `routerctl keys list` shows them")
    if arguments.json:
        _print_json(views.key_view(row))
    else:
        print(f"revoked {row['id']} ({row['name']})")


def _usage(store: RegistryStore, arguments: argparse.Namespace) -> None:
    shown = [views.usage_view(total) for total in store.usage_totals(arguments.since)]
    if arguments.json:
        _print_json(shown)
        return
    fields = ("key_name", "key", "model", "requests", "errors", "prompt_tokens", "completion_tokens", "cost_usd")
    _print_table(
        ["KEY", "ID", "MODEL", "REQUESTS", "ERRORS", "PROMPT", "COMPLETION", "COST $", "UNPRICED"],
        [[*(line[field] for field in fields), line["unpriced_requests"]] for line in shown],
    )


def _catalog(store: RegistryStore) -> Catalog:
    return build_catalog(store.load())


# --- output -------------------------------------------------------------------------------------


def _print_json(value: Any) -> None:
    print(json.dumps(value, ensure_ascii=False, indent=2))


def _joined(items: Iterable[str]) -> str:
    return ", ".join(items)


def _visible(text: str) -> str:
    """Return a text with its control characters spelled out: clients choose names, and terminals obey them."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _print_table(head: list[str], rows: list[list[Any]]) -> None:
    """Print aligned columns; numbers to the right, what is unknown as a dash."""
    texts = [["-" if cell is None or cell == "" else _visible(str(cell)) for cell in row] for row in rows]
    lines = [head, *texts] if head else texts
    if not lines:
        return
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    numeric = [
        bool(rows) and all(isinstance(row[column], (int, float)) for row in rows) for column in range(len(widths))
    ]
    for line in lines:
        cells = [
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, numeric, strict=True)
        ]
        print("  ".join(cells).rstrip())


if __name__ == "__main__":
    raise SystemExit(main())
