"""The manifest: read with all its errors at once, written so that it reads back the same."""

from __future__ import annotations

import json
import string
from decimal import Decimal
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import router.registry
from router.registry.build import build_catalog
from router.registry.declared import changes_between
from router.registry.manifest import (
    InvalidManifest,
    Manifest,
    dump_manifest,
    load_manifest,
    manifest_schema,
    parse_manifest,
    plain,
)
from router.registry.store import RegistryStore

EXAMPLE = """\
backends:
  - name: scripted
    dialect: openai
    base_url: http://127.0.0.1:9100/v1
    api_key_env: SCRIPTED_KEY # secrets are named, never stored
    tier: external
    timeouts: {connect: 2, first_token: 30, idle: 15, total: 600}
    breaker: {enabled: true, failures: 5, cooldown: 10}
    forward_headers: [openai-beta]
models:
  - id: scripted-model
    aliases: [gpt-test]
    context_length: 128000
    max_output_tokens: 16384
    capabilities: [chat, completions, tools, json_schema, vision, logprobs, reasoning]
    quality: {overall: 0.71, code: 0.66, math: 0.58}
    deployments:
      - backend: scripted
        upstream_model: gpt-test-2026
        price: {input: 0.15, cached_input: 0.075, output: 0.60}
        limits: {max_concurrency: 64, rpm: 600, tpm: 200000}
        weight: 1
        priority: 0
    fallbacks: [other-model]
  - id: other-model
    deployments: [{backend: scripted}]
policies:
  - name: auto
    candidates: ["*"]
    weights: {quality: 0.5, cost: 0.3, latency: 0.2, affinity: 0.1}
    constraints: {max_cost_usd: 0.05, first_token_ms: 3000}
    hedge: {budget: 0.1, after_ms: 800}
"""
BACKEND = 'backends: [{name: b, dialect: openai, base_url: "http://h", tier: local}]\n'


def problems(text: str) -> list[str]:
    """Return what is wrong with a manifest called `f`."""
    with pytest.raises(InvalidManifest) as caught:
        parse_manifest(text, "f")
    return list(caught.value.problems)


def test_parse_manifest_reads_every_field() -> None:
    """The example of the reference means what it says."""
    manifest = parse_manifest(EXAMPLE)
    (place,) = manifest.models[0].deployments
    assert (place.price.input, place.price.cached_input, place.price.output) == (
        Decimal("0.15"),
        Decimal("0.075"),
        Decimal("0.6"),
    )
    assert manifest.backends[0].timeouts.first_token == 30
    assert manifest.policies[0].constraints.max_cost_usd == Decimal("0.05")
    assert manifest.policies[0].hedge is not None
    assert (manifest.policies[0].hedge.budget, manifest.policies[0].hedge.after_ms) == (0.1, 800)


def test_parse_manifest_reads_json() -> None:
    """JSON is read as well, to the same manifest."""
    assert parse_manifest(json.dumps(yaml.safe_load(EXAMPLE), indent=1)) == parse_manifest(EXAMPLE)


@pytest.mark.parametrize("text", ["{}", "models:\n", "# nothing\n", "backends: []\nmodels:\n  - id: m\n    aliases:\n"])
def test_parse_manifest_takes_absent_values(text: str) -> None:
    """Empty mappings and keys without a value declare nothing."""
    assert parse_manifest(text).backends == ()


@pytest.mark.parametrize("text", ["", " \n\n"])
def test_parse_manifest_refuses_an_empty_file(text: str) -> None:
    """A lost pipe must not take every declaration away."""
    with pytest.raises(InvalidManifest, match="is empty"):
        parse_manifest(text, "models.yaml")


def test_parse_manifest_reports_all_errors_at_once() -> None:
    """Wrong types, unknown keys and contradictions come together, each with line and field."""
    text = """\
backends:
  - name: scripted
    dialect: opena
    base_url: ftp://x/v1
    api_key: sk-1234
    timeouts: {conect: 2, idle: -1}
models:
  - id: m
    context_length: many
    deployments:
      - backend: scriptd
        price:
          input: abc
    fallbacks: [zz]
polices: []
"""
    assert problems(text) == [
        "f:2: backends[0].tier: is missing",
        "f:3: backends[0].dialect: must be 'openai', 'anthropic', 'gemini' or 'local_agent'",
        "f:4: backends[0].base_url: must be a URL like https://host/v1",
        "f:5: backends[0].api_key: unknown key; did you mean 'api_key_env'?",
        "f:6: backends[0].timeouts.conect: unknown key; did you mean 'connect'?",
        "f:6: backends[0].timeouts.idle: must be greater than 0",
        "f:9: models[0].context_length: must be a valid integer, unable to parse string as an integer",
        "f:11: models[0].deployments[0].backend: there is no backend 'scriptd' in this file; did you mean 'scripted'?",
        "f:13: models[0].deployments[0].price.input: must be a valid decimal",
        "f:14: models[0].fallbacks[0]: there is no model 'zz' in this file",
        "f:15: polices: unknown key; did you mean 'policies'?",
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (BACKEND.replace("}]", "}, {name: b, dialect: openai, base_url: 'http://i', tier: local}]"), "another backend"),
        ("models: [{id: m}, {id: m}]", "f:1: models[1].id: the name 'm' is taken by another model"),
        ("models: [{id: m, aliases: [x]}, {id: n, aliases: [x]}]", "taken by another alias"),
        ("models: [{id: m}]\npolicies: [{name: m}]", "f:2: policies[0].name: the name 'm' is taken by another model"),
        ("models: [{id: m, fallbacks: [m]}]", "the fallbacks form a circle: m → m"),
        ("models: [{id: m, aliases: [x], fallbacks: [n]}, {id: n, fallbacks: [x]}]", "form a circle: m → n → m"),
        (
            BACKEND + "models: [{id: m, deployments: [{backend: b}, {backend: b, upstream_model: m}]}]",
            "already deployed",
        ),
        (BACKEND.replace("//h", "//u:secret@h"), "f:1: backends[0].base_url: must not hold credentials"),
        (BACKEND.replace("//h", "//h/v1?key=secret"), "must not have a query"),
        (BACKEND.replace("//h", "//h/v1?api-version=1&key=secret"), "must not have a query"),
        (BACKEND.replace("//h", "//h:99999"), "must be a URL"),
        (BACKEND.replace("tier", "api_key_env: sk-proj-secret, tier"), "backends[0].api_key_env: must match pattern"),
        ("models: [{id: 'a b'}]", "models[0].id: must match pattern"),
        ("models: {a: 1}", "f:1: models: must be a list"),
        ("models: [3]", "f:1: models[0]: must be a mapping"),
        ("models: [{id: m, quality: {overall: .nan}}]", "quality.overall: must be a finite number"),
        ("models: [{id: m, quality: {overall: 1.5}}]", "must be less than or equal to 1"),
        (BACKEND + "models: [{id: m, deployments: [{backend: b, price: {input: -1}}]}]", "greater than or equal to 0"),
        ("- 1", "f:1: must be a mapping"),
        ("a: [", "f:1: expected the node content"),
        ("models:\n - id: a\n   id: b", "f:3: models[0].id: is written twice, first on line 2"),
        ("a: &x [*x]", "nested too deeply"),
        ("x: !!python/object:os.system a", "could not determine a constructor"),
        ("? [1]\n: 2", "unhashable key"),
        ("a: 2001-99-99", "cannot be read as YAML"),
    ],
)
def test_parse_manifest_refuses(text: str, problem: str) -> None:
    """Each mistake is told in a sentence that holds no secret."""
    found, *_ = problems(text)
    assert problem in found
    assert "secret" not in found


def test_parse_manifest_refuses_a_bomb() -> None:
    """Anchors that multiply into millions of values are refused at once."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    assert "too many values" in problems("\n".join(lines))[0]


def test_load_manifest_names_the_file(tmp_path: Path) -> None:
    """A file that cannot be read, and one with a mistake, are called by their name."""
    with pytest.raises(InvalidManifest, match=r"nowhere.yaml: cannot be read: No such file"):
        load_manifest(tmp_path / "nowhere.yaml")
    (tmp_path / "m.yaml").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(InvalidManifest, match=r"m.yaml: is not UTF-8"):
        load_manifest(tmp_path / "m.yaml")
    (tmp_path / "m.yaml").write_text("models: 3")
    with pytest.raises(InvalidManifest, match=r"m.yaml:1: models: must be a list"):
        load_manifest(tmp_path / "m.yaml")


def test_the_published_schema_is_in_step() -> None:
    """The JSON Schema that is shipped is the one that the models give."""
    shipped = Path(next(iter(router.registry.__path__)), "manifest.schema.json").read_text()
    assert shipped == manifest_schema()


def test_the_published_schema_accepts_the_example_and_refuses_mistakes() -> None:
    """Editors that use the schema say what the router says."""
    schema = json.loads(manifest_schema())
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    validator.validate(yaml.safe_load(EXAMPLE))
    for wrong in ({"polices": []}, {"models": [{}]}, {"backends": [{"name": "b"}]}):
        assert not validator.is_valid(wrong)


_VALIDATOR = jsonschema.Draft202012Validator(json.loads(manifest_schema()))

# --- round trips ------------------------------------------------------------------------------------

_words = st.text(string.ascii_letters + string.digits + "._-", min_size=1, max_size=12).filter(
    lambda word: word[0].isalnum()
)
_models = st.text(string.ascii_letters + string.digits + "._-/:~", min_size=1, max_size=16)
_money = st.decimals(0, 10_000, places=9, allow_nan=False, allow_infinity=False)
_seconds = st.floats(0.001, 1e6, allow_nan=False)
_counts = st.integers(1, 2**40)


def _some(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=fields)


_numbers = _some(
    price=_some(input=_money, cached_input=_money, output=_money),
    limits=_some(max_concurrency=_counts, rpm=_counts, tpm=_counts),
    weight=st.floats(0, 1e6),
    priority=st.integers(-5, 5),
)
_backend_facts = _some(
    api_key_env=st.just("KEY"),
    timeouts=_some(connect=_seconds, first_token=_seconds, idle=_seconds, total=_seconds),
    breaker=_some(enabled=st.booleans(), failures=_counts, cooldown=_seconds),
    forward_headers=st.just(["openai-beta"]),
    key_header=st.just("Api-Key"),
    endpoints=st.permutations(["responses", "messages"]),
)
_model_facts = _some(
    context_length=_counts,
    max_output_tokens=_counts,
    capabilities=st.lists(_words, max_size=3),
    quality=st.dictionaries(_words, st.floats(0, 1), max_size=2),
)
_policy_facts = _some(
    candidates=st.lists(_models, max_size=3),
    weights=st.dictionaries(_words, st.floats(0, 10), max_size=3),
    constraints=_some(
        max_cost_usd=_money, first_token_ms=_counts, privacy=st.sampled_from(["local", "cluster", "any"])
    ),
    hedge=_some(budget=st.floats(0.001, 1), after_ms=_counts),
)


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    """Return any valid manifest."""
    backends = draw(st.lists(_words, min_size=1, max_size=3, unique=True))
    names = draw(st.lists(_models, max_size=6, unique=True))
    cut, end = sorted((draw(st.integers(0, len(names))), draw(st.integers(0, len(names)))))
    ids, aliases, policies = names[:cut], names[cut:end], names[end:]
    models = []
    for index, name in enumerate(ids):
        places = draw(st.lists(st.tuples(st.sampled_from(backends), _models), max_size=3, unique=True))
        later = st.lists(st.sampled_from(ids[index + 1 :]), unique=True) if ids[index + 1 :] else st.just([])
        models.append(
            {
                "id": name,
                "aliases": aliases if index == 0 else [],
                "fallbacks": draw(later),
                "deployments": [{"backend": b, "upstream_model": up, **draw(_numbers)} for b, up in places],
                **draw(_model_facts),
            }
        )
    dialects = st.sampled_from(["openai", "anthropic", "gemini", "local_agent"])
    tiers = st.sampled_from(["local", "cluster", "external"])
    return Manifest.model_validate(
        {
            "backends": [
                {
                    "name": name,
                    "dialect": draw(dialects),
                    "base_url": "https://host:1/v1",
                    "tier": draw(tiers),
                    **draw(_backend_facts),
                }
                for name in backends
            ],
            "models": models,
            "policies": [{"name": name, **draw(_policy_facts)} for name in policies],
        }
    )


@given(manifests())
@settings(deadline=None, max_examples=50)
def test_dump_manifest_reads_back_the_same(manifest: Manifest) -> None:
    """Writing and reading, as YAML or JSON, gives the same manifest; the schema accepts it."""
    assert parse_manifest(dump_manifest(manifest)) == manifest
    assert parse_manifest(json.dumps(plain(manifest))) == manifest
    _VALIDATOR.validate(plain(manifest))


@given(manifests())
@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_apply_then_export_is_stable(store: RegistryStore, manifest: Manifest) -> None:
    """Whatever was declared before, what was applied is what is exported, and again it changes nothing."""
    store.apply(manifest)
    exported = store.export()
    revision = store.revision()
    for same in (exported, parse_manifest(dump_manifest(exported)), manifest):
        assert store.apply(same) == ()
    assert changes_between(exported, store.export()) == ()
    assert store.revision() == revision
    assert set(build_catalog(store.load()).models) == {model.id for model in manifest.models}
