"""What steers a cluster from within a request: found, taken out, and nothing else touched."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.types import Caller, InferenceRequest
from router.wire.chat import forwarded_parts, parse_chat
from router.wire.steering import steers, without_steering

CHAT = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
STEERING = {
    "priority": -5,
    "kv_transfer_params": {"remote_host": "10.0.0.9", "remote_port": 5600},
    "ec_transfer_params": {},
    "data_parallel_rank": 3,
    "bootstrap_host": "10.0.0.9",
    "bootstrap_port": 1,
    "bootstrap_room": 2,
    "vllm_xargs": {"kv_transfer_params": "x"},
}


def chat(body: bytes) -> InferenceRequest:
    """Return the request that a chat body makes."""
    return parse_chat(body, "req", Caller("key_1", "k"), {})


@pytest.mark.parametrize(
    "header",
    [
        "x-llm-d-inference-objective",
        "x-llm-d-anything-new",
        "x-gateway-destination-endpoint",
        "x-gateway-destination-endpoint-subset",
        "x-gateway-inference-fairness-id",
        "x-gateway-model-name-rewrite",
        "x-slo-ttft-ms",
        "x-prefiller-host-port",
        "x-encoder-hosts-ports",
        "x-data-parallel-host-port",
        "x-data-parallel-rank",
        "x-kv-cache-source-host-port",
        "x-session-token",
        "x-session-token-prefill",
        "x-session-affinity",
        "x-envoy-upstream-rq-timeout-ms",
        "x-vllm-priority",
    ],
)
def test_steers_knows_the_headers_of_the_cluster(header: str) -> None:
    """All names, old and new, of what picks a worker, a tenant or a priority."""
    assert steers(header)


def test_steers_leaves_other_headers_alone() -> None:
    """A session's own name is no privilege; `Prefer` is one only where llm-d reads it."""
    assert not any(steers(name) for name in ("x-session-id", "openai-beta", "x-request-id", "traceparent", "prefer"))
    assert steers("prefer", cluster=True)


def test_without_steering_leaves_a_usual_request_as_it_is() -> None:
    """The very same object: nothing is copied."""
    request = chat(json.dumps({**CHAT, "vllm_xargs": {"n": 1}, "cache_salt": "mine"}).encode())
    assert without_steering(request) is request


@pytest.mark.parametrize(
    "extras",
    [
        rb'{"kv\u005ftransfer_params": "x"}',
        rb'{"\u006bv_transfer\u005fparams": "x"}',
        rb'[{"ec_transfer\u005Fparams": 1}]',
        b'{"a": 1e400}',
    ],
)
def test_without_steering_reads_names_as_the_worker_does(extras: bytes) -> None:
    """A name with escapes is the same name; what cannot be read goes as well."""
    request = without_steering(chat(json.dumps(CHAT).encode()[:-1] + b', "vllm_xargs": ' + extras + b"}"))
    assert request.changes == ("vllm_xargs dropped",)
    assert json.loads(request.body) == CHAT


@given(st.sets(st.sampled_from(sorted(STEERING)), min_size=1), st.permutations([*CHAT, *STEERING, "seed", "router"]))
def test_without_steering_takes_out_just_that(names: set[str], order: list[str]) -> None:
    """Wherever the fields stand, and among whatever spaces, the rest arrives; what went is told."""
    whole: dict[str, Any] = {**CHAT, **STEERING, "seed": 7, "router": {"fallback": "off"}}
    kept = [name for name in order if name not in STEERING or name in names]
    request = without_steering(chat(json.dumps({name: whole[name] for name in kept}, indent=1).encode()))
    assert sorted(request.changes) == sorted(f"{name} dropped" for name in names)
    sent = json.loads(b"".join(forwarded_parts(request, "up")))
    assert sent == {**CHAT, "model": "up", "seed": 7}
    assert request.body[slice(*request.spans["model"])] == b'"m"'
