"""Instructor."""

from typing import Any

import instructor
import openai
from pydantic import BaseModel
from stage import KEY, MODEL, URL, run

client = openai.OpenAI(base_url=f"{URL}/v1", api_key=KEY, max_retries=0)
ASK: Any = {"model": MODEL, "messages": [{"role": "user", "content": "Who?"}]}


class Person(BaseModel):
    """A person."""

    name: str
    age: int


def _with(mode: instructor.Mode) -> Any:
    return instructor.from_openai(client, mode=mode).create(**ASK, response_model=Person).model_dump()


def tools() -> Any:
    return _with(instructor.Mode.TOOLS)


def json_mode() -> Any:
    return _with(instructor.Mode.JSON)


def stream() -> Any:
    patched = instructor.from_openai(client, mode=instructor.Mode.TOOLS)
    *_, last = patched.create_partial(**ASK, response_model=Person)
    return last.model_dump()


if __name__ == "__main__":
    run({"tools": tools, "json": json_mode, "stream": stream})
