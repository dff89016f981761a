"""The OpenAI SDK for Python."""

from typing import Any

import openai
from pydantic import BaseModel
from stage import KEY, MODEL, URL, WEATHER, run

client = openai.OpenAI(base_url=f"{URL}/v1", api_key=KEY, max_retries=0)
ASK: Any = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]}
TOOLS: Any = [
    {"type": "function", "function": {"name": name, "parameters": WEATHER, "strict": True}} for name in ("one", "two")
]
RESPONSES_TOOLS: Any = [{"type": "function", "name": "weather", "parameters": WEATHER, "strict": True}]


class Person(BaseModel):
    """What structured output gives."""

    name: str
    age: int


def chat() -> Any:
    answer = client.chat.completions.create(**ASK)
    assert answer.usage
    return {
        "text": answer.choices[0].message.content,
        "finish": answer.choices[0].finish_reason,
        "usage": answer.usage.to_dict(),
        "request_id": answer._request_id,
        "fingerprint": answer.system_fingerprint,
    }


def stream() -> Any:
    chunks = list(client.chat.completions.create(**ASK, stream=True, stream_options={"include_usage": True}))
    return {
        "text": "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices),
        "finish": [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason],
        "total": [chunk.usage.total_tokens for chunk in chunks if chunk.usage],
        "ids": len({chunk.id for chunk in chunks}),
    }


def stream_without_usage() -> Any:
    chunks = list(client.chat.completions.create(**ASK, stream=True))
    return {"usage": [c.usage for c in chunks if c.usage], "empty": [c.id for c in chunks if not c.choices]}


def tools() -> Any:
    ask = {**ASK, "messages": [{"role": "user", "content": "both tools"}]}
    calls = client.chat.completions.create(**ask, tools=TOOLS).choices[0].message.tool_calls or []
    with client.chat.completions.stream(**ask, tools=TOOLS) as streaming:
        done = [event.arguments for event in streaming if event.type == "tool_calls.function.arguments.done"]
        final = streaming.get_final_completion().choices[0].message.tool_calls or []
    messages = [
        *ask["messages"],
        {"role": "assistant", "tool_calls": [call.to_dict() for call in calls]},
        *({"role": "tool", "tool_call_id": call.id, "content": "sun ☀"} for call in calls),
    ]
    told = client.chat.completions.create(model=MODEL, messages=messages, tools=TOOLS)
    return {
        "whole": [[call.id, call.function.name, call.function.arguments] for call in calls],
        "streamed": [[call.id, call.function.name, call.function.arguments] for call in final],
        "done": done,
        "then": told.choices[0].message.content,
    }


def structured() -> Any:
    answer = client.chat.completions.parse(**ASK, response_format=Person)
    parsed = answer.choices[0].message.parsed
    assert parsed
    return parsed.model_dump()


def completions() -> Any:
    answer = client.completions.create(model=MODEL, prompt="Once")
    chunks = list(
        client.completions.create(model=MODEL, prompt="Once", stream=True, stream_options={"include_usage": True})
    )
    return {
        "text": answer.choices[0].text,
        "streamed": "".join(chunk.choices[0].text for chunk in chunks if chunk.choices),
        "total": [chunk.usage.total_tokens for chunk in chunks if chunk.usage],
    }


def embeddings() -> Any:
    answer = client.embeddings.create(model=MODEL, input=["a", "b"])
    floats = client.embeddings.create(model=MODEL, input="a", encoding_format="float", dimensions=2)
    tokens = client.embeddings.create(model=MODEL, input=[[1, 2, 3], [4]])
    return {
        "decoded": [item.embedding for item in answer.data],
        "floats": [item.embedding for item in floats.data],
        "tokens": len(tokens.data),
    }


def responses() -> Any:
    answer = client.responses.create(model=MODEL, input="Hi", instructions="Be kind.", store=False)
    assert answer.usage
    return {
        "text": answer.output_text,
        "total": answer.usage.total_tokens,
        "status": answer.status,
        "request_id": answer._request_id,
    }


def responses_stream() -> Any:
    with client.responses.stream(model=MODEL, input="Hi", store=False) as streaming:
        events = list(streaming)
        final = streaming.get_final_response()
    numbers = [event.sequence_number for event in events if hasattr(event, "sequence_number")]
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    return {
        "text": "".join(deltas),
        "final": final.output_text,
        "ordered": numbers == sorted(set(numbers)),
        "first": events[0].type,
        "last": events[-1].type,
    }


def responses_tools() -> Any:
    asked: Any = [{"role": "user", "content": "the weather"}]
    answer = client.responses.create(model=MODEL, input=asked, tools=RESPONSES_TOOLS, store=False)
    call = next(item for item in answer.output if item.type == "function_call")
    with client.responses.stream(model=MODEL, input=asked, tools=RESPONSES_TOOLS, store=False) as streaming:
        done = [event for event in streaming if event.type == "response.function_call_arguments.done"]
    replay = [
        *asked,
        call.to_dict(),
        {"type": "function_call_output", "call_id": call.call_id, "output": "sun ☀"},
    ]
    told = client.responses.create(model=MODEL, input=replay, tools=RESPONSES_TOOLS, store=False)
    return {"name": call.name, "arguments": call.arguments, "done": done[0].arguments, "then": told.output_text}


def responses_structured() -> Any:
    answer = client.responses.parse(model=MODEL, input="Hi", text_format=Person, store=False)
    assert answer.output_parsed
    return answer.output_parsed.model_dump()


def models() -> Any:
    listed = client.models.list().data
    return {"listed": [model.id for model in listed], "one": client.models.retrieve(MODEL).id}


def errors() -> Any:
    told = {}
    for status in (400, 404, 429, 500):
        try:
            ask = {**ASK, "messages": [{"role": "user", "content": f"fail with {status}"}]}
            client.chat.completions.create(**ask)
        except openai.APIStatusError as error:
            told[str(status)] = [type(error).__name__, error.code, bool(error.request_id)]
    try:
        client.chat.completions.create(**{**ASK, "model": "nobody"})
    except openai.NotFoundError as error:
        told["model"] = [type(error).__name__, error.code, bool(error.request_id)]
    return told


def break_off() -> Any:
    text = ""
    try:
        ask = {**ASK, "messages": [{"role": "user", "content": "break off"}]}
        for chunk in client.chat.completions.create(**ask, stream=True):
            text += chunk.choices[0].delta.content or ""
    except openai.APIError as error:
        return {"error": type(error).__name__, "text": text, "message": error.message}
    return {"error": None, "text": text}


def abort() -> Any:
    ask = {**ASK, "messages": [{"role": "user", "content": "hang"}]}
    for chunk in client.chat.completions.create(**ask, stream=True):
        if chunk.choices[0].delta.content:
            break
    return {"aborted": True}


if __name__ == "__main__":
    on_chat = (chat, stream, stream_without_usage, tools, structured, errors, break_off, abort)
    others = (completions, embeddings, models, responses, responses_stream, responses_tools, responses_structured)
    run({step.__name__: step for step in (*on_chat, *others)})
