"""LangChain for Python, with its OpenAI package."""

from typing import Any

from langchain_core.messages import ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel, SecretStr
from stage import KEY, MODEL, URL, run

OPTIONS: Any = {"base_url": f"{URL}/v1", "api_key": SecretStr(KEY), "model": MODEL, "max_retries": 0}
model = ChatOpenAI(**OPTIONS)


class Person(BaseModel):
    """A person."""

    name: str
    age: int


@tool
def weather(city: str, days: int) -> str:
    """Tell the weather."""
    return f"sun in {city} for {days} days"


def chat() -> Any:
    answer = model.invoke("Hi")
    return {"text": answer.content, "usage": answer.usage_metadata, "finish": answer.response_metadata["finish_reason"]}


def stream() -> Any:
    chunks = list(ChatOpenAI(**OPTIONS, stream_usage=True).stream("Hi"))
    usage = [chunk.usage_metadata["total_tokens"] for chunk in chunks if chunk.usage_metadata]
    return {"text": "".join(str(chunk.content) for chunk in chunks), "total": usage}


def tools() -> Any:
    bound = model.bind_tools([weather])
    asked: Any = [("user", "the weather, with a tool")]
    answer = bound.invoke(asked)
    (call,) = answer.tool_calls
    streamed: Any = None
    for chunk in bound.stream(asked):
        streamed = chunk if streamed is None else streamed + chunk
    then = bound.invoke([*asked, answer, ToolMessage(weather.invoke(call["args"]), tool_call_id=call["id"])])
    return {
        "name": call["name"],
        "args": call["args"],
        "streamed": streamed.tool_calls[0]["args"],
        "then": then.content,
    }


def structured() -> Any:
    return {
        "schema": model.with_structured_output(Person).invoke("Hi").model_dump(),
        "function": model.with_structured_output(Person, method="function_calling").invoke("Hi").model_dump(),
        "json": model.with_structured_output(Person, method="json_mode").invoke("Hi, in JSON").model_dump(),
    }


def embeddings() -> Any:
    plain = OpenAIEmbeddings(**OPTIONS, check_embedding_ctx_length=False)
    return {"vectors": plain.embed_documents(["a", "b"])}


def responses() -> Any:
    speaking = ChatOpenAI(**OPTIONS, use_responses_api=True)
    streamed = [chunk.text for chunk in speaking.stream("Hi")]
    return {"text": speaking.invoke("Hi").text, "streamed": "".join(map(str, streamed))}


if __name__ == "__main__":
    run({step.__name__: step for step in (chat, stream, tools, structured, embeddings, responses)})
