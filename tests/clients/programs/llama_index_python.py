"""LlamaIndex."""

from typing import Any

from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike
from stage import KEY, MODEL, URL, run

model = OpenAILike(
    model=MODEL,
    api_base=f"{URL}/v1",
    api_key=KEY,
    is_chat_model=True,
    is_function_calling_model=True,
    max_retries=0,
)
ASK = [ChatMessage(role="user", content="Hi")]


def weather(city: str, days: int) -> str:
    """Tell the weather."""
    return f"sun in {city} for {days} days"


def chat() -> Any:
    return {"text": model.chat(ASK).message.content, "completed": model.complete("Hi").text}


def stream() -> Any:
    return {"text": "".join(part.delta or "" for part in model.stream_chat(ASK))}


def tools() -> Any:
    told = model.predict_and_call([FunctionTool.from_defaults(weather)], user_msg="the weather, with a tool")
    return {"told": str(told)}


if __name__ == "__main__":
    run({"chat": chat, "stream": stream, "tools": tools})
