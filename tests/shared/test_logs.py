"""Log lines: JSON, one each, without secrets."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.logs import JSONFormatter, logging_to_stderr, redact
from tests.support.properties import json_values, text

SECRETS = [
    "sk-proj-abcdefghijklmnop1234",
    "sk-ant-api03-abcdefghijkl_-AA",
    "sk-router-abcdefghijklmnopqrstuvwxyz",
    "sk-or-v1-0123456789abcdef",
    "gsk_abcdefghijklmnop",
    "xai-abcdefghijklmnop",
    "pplx-abcdefghijklmnop",
    "nvapi-abcdefghijklmnop",
    "hf_abcdefghijklmnop",
    "fw_abcdefghijklmnop",
    "csk-abcdefghijklmnop",
    "AIzaSyA-abcdefghijklmnopqrstuv",
]


def line(message: str, *args: Any, fields: dict[str, Any] | None = None, error: BaseException | None = None) -> str:
    """One formatted line."""
    info = None if error is None else (type(error), error, error.__traceback__)
    record = logging.LogRecord("router.x", logging.WARNING, __file__, 1, message, args, info)
    if fields is not None:
        record.fields = fields
    return JSONFormatter().format(record)


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("around", ["{}", "key={}", "a\n{}\nb", "a\t{}", '"{}"', "(`{}`)", "x-api-key: {},"])
def test_redact_removes_keys_wherever_they_stand(secret: str, around: str) -> None:
    """A provider's key or one of ours is gone from a message, a field and a traceback."""
    said = around.format(secret)
    assert secret not in redact(said)
    for written in (line(said), line("m", fields={"deep": {"x": [said]}}), line("m", error=ValueError(said))):
        assert secret not in written
        assert "[redacted]" in json.dumps(json.loads(written))


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("Authorization: Bearer abc.DEF-123_~+/=", "Authorization: Bearer [redacted]"),
        ("bearer   12345678", "bearer   [redacted]"),
        ("redis://:hunter2@cache:6379/0", "redis://[redacted]@cache:6379/0"),
        ("postgresql+psycopg://me:p%40ss:word@db/x", "postgresql+psycopg://[redacted]@db/x"),
        ("https://token@host/path", "https://[redacted]@host/path"),
    ],
)
def test_redact_keeps_what_is_no_secret(said: str, told: str) -> None:
    """Only the secret itself goes."""
    assert redact(said) == told


@pytest.mark.parametrize(
    "said",
    [
        "task-force and risk-assessment-of-things",
        "the bearer of bad news",
        "http://127.0.0.1:8000/v1/models",
        '{"url": "http://a:80", "mail": "me@example.com"}',
        '{"url":"http://a:80","mail":"me@example.com"}',
        "model gpt-4o-mini-2024-07-18, req_0123456789abcdef01234567",
    ],
)
def test_redact_leaves_harmless_text_alone(said: str) -> None:
    """Names, addresses and ids are no secrets."""
    assert redact(said) == said


@given(text, st.dictionaries(text, json_values, max_size=4))
def test_formatter_writes_one_json_object_a_line(message: str, fields: dict[str, Any]) -> None:
    """Whatever is logged, the line is one JSON object without a line feed."""
    written = line("%s", message, fields=fields)
    assert "\n" not in written
    assert isinstance(json.loads(written), dict)


def test_formatter_says_when_where_and_how_bad() -> None:
    """The line has the time in UTC, level, logger, message, fields, and the exception."""
    try:
        raise ValueError("broken")
    except ValueError as error:
        read = json.loads(line("%d of %d", 1, 2, fields={"request_id": "req_1", "path": {1}}, error=error))
    assert read["message"] == "1 of 2"
    assert read["level"] == "warning"
    assert read["logger"] == "router.x"
    assert read["request_id"] == "req_1"
    assert read["path"] == "{1}"
    assert read["time"].endswith("+00:00")
    assert read["exception"].endswith("ValueError: broken")


def test_logging_writes_everything_before_it_ends(capsys: pytest.CaptureFixture[str]) -> None:
    """Every record of the level is out when the context ends, in order, and the logger is as before."""
    root = logging.getLogger()
    before = (root.level, list(root.handlers))
    with logging_to_stderr("info"):
        for index in range(100):
            logging.getLogger("x").info("line %d", index)
        logging.getLogger("x").debug("hidden")
    lines = [json.loads(written) for written in capsys.readouterr().err.splitlines()]
    assert [read["message"] for read in lines] == [f"line {index}" for index in range(100)]
    assert (root.level, list(root.handlers)) == before


def test_logging_survives_what_cannot_be_formatted(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A record with wrong arguments costs its own line only."""
    monkeypatch.setattr(logging, "raiseExceptions", False)
    with logging_to_stderr("info"):
        logging.getLogger("x").info("%d", "no number")
        logging.getLogger("x").info("next")
    assert [json.loads(written)["message"] for written in capsys.readouterr().err.splitlines()] == ["next"]
