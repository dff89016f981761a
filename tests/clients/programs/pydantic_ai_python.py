"""Pydantic AI."""

from typing import Any

from anthropic import AsyncAnthropic
from pydantic import BaseModel
from pydantic_ai import Agent
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider
from stage import KEY, MODEL, URL, run

provider = OpenAIProvider(base_url=f"{URL}/v1", api_key=KEY)


class Person(BaseModel):
    """A person."""

    name: str
    age: int


async def chat() -> Any:
    result = await Agent(OpenAIChatModel(MODEL, provider=provider), instructions="Be kind.").run("Hi")
    return {"text": result.output, "usage": [result.usage.input_tokens, result.usage.output_tokens]}


async def stream() -> Any:
    async with Agent(OpenAIChatModel(MODEL, provider=provider)).run_stream("Hi") as result:
        text = [piece async for piece in result.stream_text(delta=True, debounce_by=None)]
        return {"text": "".join(text), "out": result.usage.output_tokens}


async def tools() -> Any:
    agent = Agent(OpenAIChatModel(MODEL, provider=provider))

    @agent.tool_plain
    def weather(city: str, days: int) -> str:
        """Tell the weather."""
        return f"sun in {city} for {days} days"

    return {"text": (await agent.run("the weather, with a tool")).output}


async def structured() -> Any:
    agent = Agent(OpenAIChatModel(MODEL, provider=provider), output_type=Person)
    return (await agent.run("Hi")).output.model_dump()


async def responses() -> Any:
    agent = Agent(OpenAIResponsesModel(MODEL, provider=provider))
    async with agent.run_stream("Hi") as result:
        streamed = [piece async for piece in result.stream_text(delta=True, debounce_by=None)]
    return {"text": (await agent.run("Hi")).output, "streamed": "".join(streamed)}


async def messages() -> Any:
    client = AsyncAnthropic(base_url=URL, api_key=KEY, max_retries=0)
    agent = Agent(AnthropicModel(MODEL, provider=AnthropicProvider(anthropic_client=client)))
    async with agent.run_stream("Hi") as result:
        streamed = [piece async for piece in result.stream_text(delta=True, debounce_by=None)]
    return {"text": (await agent.run("Hi")).output, "streamed": "".join(streamed)}


if __name__ == "__main__":
    run({step.__name__: step for step in (chat, stream, tools, structured, responses, messages)})
