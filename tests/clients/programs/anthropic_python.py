"""The Anthropic SDK for Python."""

from typing import Any

import anthropic
from stage import KEY, MODEL, URL, WEATHER, run

client = anthropic.Anthropic(base_url=URL, api_key=KEY, max_retries=0)
ASK: Any = {"model": MODEL, "max_tokens": 100, "messages": [{"role": "user", "content": "Hi"}]}
TOOLS: Any = [{"name": "weather", "description": "The weather", "input_schema": WEATHER}]


def messages() -> Any:
    answer = client.messages.create(**ASK, system=[{"type": "text", "text": "Be kind."}])
    return {
        "text": answer.content[0].text,
        "stop": answer.stop_reason,
        "usage": [answer.usage.input_tokens, answer.usage.cache_read_input_tokens, answer.usage.output_tokens],
        "request_id": bool(answer._request_id),
    }


def stream() -> Any:
    with client.messages.stream(**ASK) as streaming:
        text = "".join(streaming.text_stream)
        final = streaming.get_final_message()
    return {"text": text, "final": final.content[0].text, "stop": final.stop_reason, "out": final.usage.output_tokens}


def tools() -> Any:
    ask = {**ASK, "messages": [{"role": "user", "content": "the weather, with a tool"}]}
    answer = client.messages.create(**ask, tools=TOOLS)
    use = next(block for block in answer.content if block.type == "tool_use")
    with client.messages.stream(**ask, tools=TOOLS) as streaming:
        final = next(block for block in streaming.get_final_message().content if block.type == "tool_use")
    turns: Any = [
        *ask["messages"],
        {"role": "assistant", "content": [block.to_dict() for block in answer.content]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": use.id, "content": "sun ☀"}]},
    ]
    told = client.messages.create(**{**ask, "messages": turns}, tools=TOOLS)
    return {
        "stop": answer.stop_reason,
        "input": use.input,
        "streamed": final.input,
        "same_name": use.name == final.name == "weather",
        "then": told.content[0].text,
    }


def count() -> Any:
    return client.messages.count_tokens(model=MODEL, messages=ASK["messages"]).input_tokens


def beta() -> Any:
    answer = client.beta.messages.create(**ASK, betas=["context-management-2025-06-27"])
    return {"text": answer.content[0].text}


def errors() -> Any:
    told = {}
    for status in (400, 404, 429, 500, 529):
        try:
            client.messages.create(**{**ASK, "messages": [{"role": "user", "content": f"fail with {status}"}]})
        except anthropic.APIStatusError as error:
            body: Any = error.body
            told[str(status)] = [type(error).__name__, error.status_code, body["type"], body["error"]["type"]]
    try:
        client.messages.create(**{**ASK, "model": "nobody"})
    except anthropic.NotFoundError as error:
        body = error.body
        told["model"] = [type(error).__name__, error.status_code, body["type"], body["error"]["type"]]
    return told


def break_off() -> Any:
    text = ""
    try:
        with client.messages.stream(**{**ASK, "messages": [{"role": "user", "content": "break off"}]}) as streaming:
            for piece in streaming.text_stream:
                text += piece
    except anthropic.APIError as error:
        return {"error": type(error).__mro__[1].__name__ != "", "text": text}
    return {"error": None, "text": text}


def abort() -> Any:
    with client.messages.stream(**{**ASK, "messages": [{"role": "user", "content": "hang"}]}) as streaming:
        for _ in streaming.text_stream:
            break
    return {"aborted": True}


if __name__ == "__main__":
    run({step.__name__: step for step in (messages, stream, tools, count, beta, errors, break_off, abort)})
