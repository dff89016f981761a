"""`/v1/audio/*`, `/v1/images/*`, `/v1/moderations`, `/v1/rerank`: passed on by model."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from msgspec import structs

from router.admission import may_use
from router.api.deps import Services
from router.api.respond import Resource
from router.interfaces import Front
from router.types import InferenceRequest
from router.wire.openai import openai_error, openai_error_event
from router.wire.passthrough import Place, parse_passed
from shared.errors import InvalidRequest

__all__ = ["PASSED"]

# `audio` also says that a chat model can listen; `audio_api`, that a dialect has words for these routes.
_AUDIO = frozenset({"audio", "audio_api"})
_IMAGES = frozenset({"images"})
_PLACES = (
    Place("audio", "/audio/speech", _AUDIO, "always", required="input"),
    Place("audio", "/audio/transcriptions", _AUDIO),
    Place("audio", "/audio/translations", _AUDIO, "never"),
    Place("images", "/images/generations", _IMAGES, names_model=False, required="prompt"),
    Place("images", "/images/edits", _IMAGES, names_model=False),
    Place("images", "/images/variations", _IMAGES, "never", names_model=False),
    Place("moderations", "/moderations", frozenset({"moderations"}), "never", names_model=False, required="input"),
    Place("rerank", "/rerank", frozenset({"rerank"}), "never", required="query"),
)


async def _with_model(services: Services, request: InferenceRequest) -> InferenceRequest:
    """Return the request with the first model that can serve it and the caller may use, where it names none.

    Raises:
        InvalidRequest: No model says that it can.
    """
    if request.model:
        return request
    for model in services.catalog.current.models.values():
        if request.needs <= model.capabilities and may_use(request.caller, model.id):
            return structs.replace(request, model=model.id)
    wanted = ", ".join(sorted(request.needs))
    raise InvalidRequest(f"Name a model: none is known to have the capability {wanted}.", param="model")


def _resource(place: Place) -> Resource:
    # No ping: it would end up in the sound.
    front = Front(partial(parse_passed, place), openai_error, openai_error_event, ping=b"")
    return Resource(front, prepare=_with_model)


PASSED: Mapping[str, Resource] = {f"/v1{place.path}": _resource(place) for place in _PLACES}
