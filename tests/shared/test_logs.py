"""Log lines: JSON, one each, without secrets."""

from __future__ import annotations

import io
import json
import logging
import threading
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.logs import AccessLog, JSONFormatter, logging_to_stderr, redact
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


# --- access lines -----------------------------------------------------------------------------------


def written(*lines: dict[str, Any], **options: Any) -> list[dict[str, Any]]:
    """Return what becomes of the fields of some lines."""
    out = io.BytesIO()
    log = AccessLog(out.write, "x.access", **options)
    for fields in lines:
        log.write(fields)
    assert log.close()
    return [json.loads(line) for line in out.getvalue().splitlines()]


@given(st.lists(st.dictionaries(text.filter(lambda key: key not in {"time", "level"}), json_values, max_size=4)))
def test_access_lines_are_those_of_the_formatter(lines: list[dict[str, Any]]) -> None:
    """Each line has the keys, the values and the form of time that a log record would have."""
    told = written(*lines)
    assert len(told) == len(lines)
    for line, fields in zip(told, lines, strict=True):
        record = logging.makeLogRecord({"name": "x.access", "levelname": "INFO", "msg": "request", "fields": fields})
        record.created = datetime.fromisoformat(line["time"]).timestamp()
        assert line == json.loads(JSONFormatter().format(record))


@pytest.mark.parametrize("secret", SECRETS)
def test_access_lines_hold_no_secret(secret: str) -> None:
    """What a client says is redacted, the second time as well, and wherever it stands."""
    said = {"path": f"/v1/{secret}", "client_request_id": secret, "model": secret, "deep": {"x": [secret]}}
    told = written(said, said)
    assert len(told) == 2
    assert secret not in json.dumps(told)
    assert told[0]["model"] == told[1]["model"] == "[redacted]"


def test_access_lines_survive_what_json_cannot_hold() -> None:
    """Half a surrogate, a strange value or a strange key costs no line."""
    told = written({"model": "a\ud800"}, {"what": object}, {"a": 1, (1, 2): 3}, {"ok": True})
    assert [line["message"] for line in told] == ["request"] * 4
    assert told[-1]["ok"] is True


def test_access_lines_are_dropped_while_nobody_reads() -> None:
    """A stuck reader costs lines, not memory nor time; their number is told later."""
    stuck, going = threading.Event(), threading.Event()
    out: list[bytes] = []

    def write(data: bytes) -> None:
        stuck.set()
        going.wait()
        out.append(data)

    log = AccessLog(write, "x", interval=0, capacity=10)
    log.write({"n": -1})
    stuck.wait()
    for number in range(100):
        log.write({"n": number})
    going.set()
    assert log.close()
    lines = [json.loads(line) for line in b"".join(out).splitlines()]
    assert [line["n"] for line in lines if "n" in line] == [-1, *range(10)]
    assert [(line["level"], line["dropped"]) for line in lines if "n" not in line] == [("warning", 90)]


def test_access_log_gives_up_on_a_reader_that_stays_stuck() -> None:
    """The end of the process does not wait for ever; a line after it is nothing."""
    never = threading.Event()
    log = AccessLog(lambda _data: never.wait(), "x", interval=0)
    log.write({})
    assert not log.close(0.01)
    log.write({})
    never.set()
    assert log.close()


def test_access_log_goes_on_after_a_failed_write() -> None:
    """A write that fails costs its lines and is told by the next."""
    out: list[bytes] = []
    done: list[threading.Event] = [threading.Event()]

    def write(data: bytes) -> None:
        try:
            if b"bad" in data:
                raise BrokenPipeError
            out.append(data)
        finally:
            done[-1].set()

    log = AccessLog(write, "x", interval=0)
    log.write({"n": "bad"})
    done[-1].wait()
    log.write({"n": "good"})
    assert log.close()
    lines = [json.loads(line) for line in b"".join(out).splitlines()]
    assert [line.get("n") or line["dropped"] for line in lines] == ["good", 1]


def test_access_lines_are_never_cut() -> None:
    """Writes are whole lines within the bound, so that processes may share a pipe."""
    sizes: list[bytes] = []
    log = AccessLog(sizes.append, "x", interval=0.01, block=1000)
    for number in range(300):
        log.write({"n": number, "path": "y" * (number * 5)})
    assert log.close()
    assert all(data.endswith(b"\n") for data in sizes)
    assert all(len(data) <= 1000 or data.count(b"\n") == 1 for data in sizes)
    assert [json.loads(line)["n"] for line in b"".join(sizes).splitlines()] == list(range(300))


def test_access_lines_from_several_threads() -> None:
    """Writers on several threads lose no line, whether the thread sleeps or not."""
    out = io.BytesIO()
    log = AccessLog(out.write, "x", interval=0)
    threads = [threading.Thread(target=lambda: [log.write({}) for _ in range(500)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert log.close()
    assert out.getvalue().count(b"\n") == 2000


@pytest.mark.parametrize(("level", "expected"), [("debug", 1), ("info", 1), ("warning", 0), ("error", 0)])
def test_level_silences_access_lines(capsys: pytest.CaptureFixture[str], level: str, expected: int) -> None:
    """Access lines are of level info and go where the log goes."""
    with logging_to_stderr(level, "x.access") as access:
        access.write({"status": 200})
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [(line["logger"], line["status"]) for line in lines] == [("x.access", 200)] * expected


def test_logging_says_in_every_line_what_is_common(capsys: pytest.CaptureFixture[str]) -> None:
    """Fields of the process join its own lines and its access lines."""
    with logging_to_stderr("info", "x.access", {"worker": 3}) as access:
        access.write({"status": 200})
        logging.getLogger("x").info("said")
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert {line["message"]: line["worker"] for line in lines} == {"request": 3, "said": 3}
