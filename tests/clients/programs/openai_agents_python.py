"""The OpenAI Agents SDK."""

from typing import Any

from agents import Agent, OpenAIChatCompletionsModel, OpenAIResponsesModel, Runner, function_tool, set_tracing_disabled
from openai import AsyncOpenAI
from stage import KEY, MODEL, URL, run

set_tracing_disabled(True)
client = AsyncOpenAI(base_url=f"{URL}/v1", api_key=KEY, max_retries=0)


@function_tool
def weather(city: str, days: int) -> str:
    """Tell the weather."""
    return f"sun in {city} for {days} days"


async def _both(model: Any) -> Any:
    agent = Agent(name="a", instructions="Be kind.", model=model)
    whole = await Runner.run(agent, "Hi")
    streaming = Runner.run_streamed(agent, "Hi")
    kinds = [event.type async for event in streaming.stream_events()]
    tooled = Agent(name="b", instructions="Use tools.", model=model, tools=[weather])
    then = await Runner.run(tooled, "the weather, with a tool")
    return {
        "text": whole.final_output,
        "streamed": streaming.final_output,
        "events": len(kinds) > 3,
        "then": then.final_output,
        "total": whole.context_wrapper.usage.total_tokens,
    }


async def chat() -> Any:
    return await _both(OpenAIChatCompletionsModel(MODEL, client))


async def responses() -> Any:
    return await _both(OpenAIResponsesModel(MODEL, client))


if __name__ == "__main__":
    run({"chat": chat, "responses": responses})
