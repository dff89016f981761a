"""docs/reference/faults.md: the matrix of faults as its tests hold it, and where each fault of the field is tested."""

from __future__ import annotations

from collections.abc import Iterator

from tests.integration.faults.clients import CLIENTS
from tests.integration.faults.dialects import DIALECTS
from tests.integration.faults.faults import FAULTS, Fate, Fault
from tests.integration.faults.field import FIELD

__all__ = ["faults_page"]

_GENERATED = "<!-- Written by `make reference` from the tests' own table. Change the table, not this page. -->\n"
_INTRODUCTION = """\
What a backend can do wrong, and what comes of it. Each row is played by a scripted backend on a port, and every column
is asserted by `tests/integration/faults`: {cells} cells, for each backend dialect ({dialects}), each kind of client
({clients}), whole answers and streams, alone and with a healthy candidate behind it.

In every cell: the client's answer is well formed for a strict reader; no answer, header or file holds the backend's
key, its address or a stack trace; there is one usage row; no more than three attempts are made; afterwards no exchange
with a backend is open.

**Alone** is what the client sees where there is nobody else to ask. *The answer* is the whole one. *Cut* is all that
was said, then one error event (`stream_interrupted`) and no proper end.

**Seen** is how many requests the backend saw: a failure that may have passed gets a second try. A request that goes
out on a kept connection which then closes without a byte is sent once more on a fresh one, and that is no attempt.

**With another** is what the client sees where a healthy candidate follows. *Its answer*: that one's, and nothing of
the first. *Joined*: what was said before the fault and what the other one adds, as one answer without a gap or a
repetition; a `messages` stream that an `anthropic` backend gives in the client's own dialect is cut instead.

**Billed**: the answer that was delivered, once. What was cut off is estimated; nothing is billed for an error.
"""
_FIELD = """\
What breaks gateways in the field, from their issue trackers, and the tests that show it does not break this one.

| Item | What happens elsewhere | Tests |
|---|---|---|
"""


def _seen(told: str) -> str:
    """Return what a client sees, in words."""
    words = {"answer": "the answer", "said": "what was said, as a whole answer", "cut": "cut"}
    if told in words:
        return words[told]
    status, code = told.split()
    return f"{status}, the backend's words" if code == "None" else f"{status} `{code}`"


def _billed(told: str) -> str:
    return {"answer": "the answer", "said": "an estimate", "cut": "an estimate"}.get(told, "nothing")


def _paired(fate: Fate) -> str:
    return {"second": "its answer", "joined": "joined", "same": "the same"}[fate.paired]


def _row(says: str, asked: str, fate: Fate, fault: Fault) -> str:
    tries = "-" if fault.place else str(fate.tries)
    cells = (says, asked, _seen(fate.alone), tries, fate.lasts, _billed(fate.alone), _paired(fate))
    return f"| {' | '.join(cells)} |"


def _rows() -> Iterator[str]:
    yield "| The backend … | Asked for | Alone | Seen | How long | Billed | With another |"
    yield "|---|---|---|---|---|---|---|"
    for fault in FAULTS.values():
        if fault.whole == fault.stream and fault.whole is not None:
            yield _row(fault.says, "both", fault.whole, fault)
        else:
            for asked, fate in (("whole", fault.whole), ("stream", fault.stream)):
                if fate is not None:
                    yield _row(fault.says, asked, fate, fault)
        for (dialect, stream), fate in fault.unless.items():
            asked = f"{'stream' if stream else 'whole'}, `{dialect}`"
            if fate is not None and dialect in DIALECTS:
                yield _row(fault.says, asked, fate, fault)


def _cells() -> int:
    asked = sum(
        fault.fate(dialect, stream) is not None
        for fault in FAULTS.values()
        for dialect in DIALECTS
        for stream in (False, True)
    )
    return asked * len(CLIENTS) * 2


def faults_page() -> str:
    """Return docs/reference/faults.md."""
    dialects, clients = (", ".join(f"`{name}`" for name in names) for names in (DIALECTS, CLIENTS))
    parts = [
        _GENERATED,
        "# Faults\n",
        _INTRODUCTION.format(cells=f"{_cells():,}", dialects=dialects, clients=clients),
        "## The matrix\n",
        *_rows(),
        "\n## Field faults\n",
        _FIELD + "\n".join(item.row() for item in FIELD),
    ]
    return "\n".join(parts) + "\n"
