"""Secrets: made by the chart or there already, read by reference, never written down anywhere else."""

from __future__ import annotations

from base64 import b64decode
from typing import Any

import pytest

from tests.support.helm import Rendered, render
from tests.worker_cluster.cases import CHART

TOKEN = {"secrets": {"hfToken": {"create": True, "value": "hf_token_of_ours\n"}}}
KEYS = {"secrets": {"routerApiKeys": {"create": True, "keys": ["first-key-of-the-router", "second-key-of-it"]}}}


def token_of(objects: Rendered) -> dict[str, Any] | None:
    """Where the workers get their token from."""
    (container,) = objects.one("Deployment", "-decode")["spec"]["template"]["spec"]["containers"]
    found = [each["valueFrom"]["secretKeyRef"] for each in container["env"] if each["name"] == "HF_TOKEN"]
    return found[0] if found else None


def test_token_is_that_of_a_secret_that_is_there_by_default() -> None:
    """The chart makes no Secret by itself, and public models start without one."""
    objects = render(CHART)
    assert not objects.of("Secret")
    assert token_of(objects) == {"name": "llm-d-hf-token", "key": "HF_TOKEN", "optional": True}


def test_token_can_be_demanded_or_left_out() -> None:
    """A worker of a gated model waits for its token; one without a Secret gets none."""
    demanded = token_of(render(CHART, None, "secrets.hfToken.optional=false"))
    assert demanded is not None
    assert demanded["optional"] is False
    assert token_of(render(CHART, None, "secrets.hfToken.existingSecret=")) is None


def test_token_can_be_made_by_the_chart() -> None:
    """From a value that --set-file reads, whose last line break is no part of it."""
    objects = render(CHART, TOKEN)
    secret = objects.one("Secret", "-hf-token")
    assert b64decode(secret["data"]["HF_TOKEN"]) == b"hf_token_of_ours"
    assert token_of(objects) == {"name": secret["metadata"]["name"], "key": "HF_TOKEN", "optional": False}


def test_changed_token_starts_workers_anew() -> None:
    """A variable from a Secret is read once, at the start."""
    first, second = (
        render(CHART, {"secrets": {"hfToken": {"create": True, "value": value}}}).one("Deployment", "-decode")["spec"][
            "template"
        ]["metadata"]["annotations"]["checksum/hf-token"]
        for value in ("one", "other")
    )
    assert first != second


def test_keys_of_the_entrance_are_one_a_line() -> None:
    """As the entrance reads them, whoever made the Secret."""
    secret = render(CHART, KEYS).one("Secret", "-router-keys")
    assert b64decode(secret["data"]["keys"]) == b"first-key-of-the-router\nsecond-key-of-it"


@pytest.mark.parametrize("values", [TOKEN, KEYS])
def test_secrets_are_held_by_secrets_alone(values: dict[str, Any]) -> None:
    """Not by arguments, variables, annotations or the notes."""
    objects = render(CHART, values)
    told = str([item for item in objects if item["kind"] != "Secret"]) + objects.notes
    for secret in ("hf_token_of_ours", "first-key-of-the-router", "second-key-of-it"):
        assert secret not in told


def test_notes_say_where_the_key_is_and_not_what() -> None:
    """The router's owner reads the key from the Secret."""
    notes = render(CHART, None, "secrets.routerApiKeys.existingSecret=entrance-keys").notes
    assert 'LLMD_API_KEY="$(kubectl -n llm-d get secret entrance-keys ' in notes
    assert "LLMD_API_KEY" not in render(CHART).notes


def test_account_of_the_workers_has_no_token() -> None:
    """Workers ask nothing of Kubernetes."""
    assert render(CHART).one("ServiceAccount", "-worker")["automountServiceAccountToken"] is False
