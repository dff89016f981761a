"""Simon Willison's llm."""

from typing import Any

from llm.default_plugins.openai_models import Chat
from pydantic import BaseModel
from stage import KEY, MODEL, URL, run

model = Chat("router", model_name=MODEL, api_base=f"{URL}/v1", supports_schema=True, supports_tools=True)


class Person(BaseModel):
    """A person."""

    name: str
    age: int


def chat() -> Any:
    answer = model.prompt("Hi", stream=False, key=KEY)
    return {"text": answer.text(), "usage": [answer.usage().input, answer.usage().output]}


def stream() -> Any:
    answer = model.prompt("Hi", key=KEY)
    return {"text": "".join(answer), "usage": [answer.usage().input, answer.usage().output]}


def structured() -> Any:
    return {"text": model.prompt("Hi", schema=Person, stream=False, key=KEY).text()}


def tools() -> Any:
    def weather(city: str, days: int) -> str:
        """Tell the weather."""
        return f"sun in {city} for {days} days"

    return {"text": model.chain("the weather, with a tool", tools=[weather], key=KEY).text()}


if __name__ == "__main__":
    run({"chat": chat, "stream": stream, "structured": structured, "tools": tools})
