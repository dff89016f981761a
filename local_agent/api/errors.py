"""Every error of a route becomes OpenAI's error object, here and only here."""

from __future__ import annotations

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from shared.errors import InternalError, InvalidRequest, MethodNotAllowed, NotFound, ServiceError

__all__ = ["install"]


def _response(error: ServiceError, headers: dict[str, str] | None = None) -> Response:
    own = {**(headers or {}), **error.headers()}
    return Response(error.json(), status_code=error.status, media_type="application/json", headers=own)


async def _service_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ServiceError)
    request.scope["state"]["log"]["error"] = error.code
    return _response(error)


async def _http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path, method = request.url.path, request.method
    if error.status_code == 404:
        return _response(NotFound(f"There is no {path} here."))
    if error.status_code == 405:
        return _response(MethodNotAllowed(f"{path} does not accept {method}."), dict(error.headers or {}))
    if error.status_code < 500:
        return _response(InvalidRequest(str(error.detail)))
    return _response(InternalError("The server had an internal error."))


async def _validation_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return _response(InvalidRequest("The request is not valid."))


def install(app: FastAPI) -> None:
    """Make an application answer every error in OpenAI's shape."""
    app.add_exception_handler(ServiceError, _service_error)
    app.add_exception_handler(HTTPException, _http_exception)
    app.add_exception_handler(RequestValidationError, _validation_error)
