"""The OpenAPI 3.1 document of the API, made of the table of its calls: none can be missing, and none can be too much."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import procjobs
from procjobs.web.api import shapes
from procjobs.web.api.endpoint import Endpoint

if TYPE_CHECKING:
    from procjobs.web.api.endpoint import Call
    from procjobs.web.api.parameters import Parameter
    from procjobs.web.api.records import Schemas

_PLACES: Final = re.compile(r"\{(\w+)\}")
_PLACE_SCHEMAS: Final = {"id": shapes.ID, "name": {"type": "string"}}
_ABOUT: Final = (
    "Pools of worker processes on this host, and their jobs. Ids are UUIDs that grow with time. Times are ISO 8601 in UTC. "
    "Text that jobs have written is bounded, and has no control characters. New fields may come; those that are here stay."
)
_PROBLEMS: Final = {
    400: "A parameter is wrong: the detail begins with its name.",
    403: "The visitor has not this right, or the request comes from another site.",
    404: "There is no such pool, job or schedule.",
    409: "It cannot be done to what there is now: the detail says why.",
    415: "The body is neither a form nor JSON.",
    421: "The server does not answer for this host.",
    503: "The supervisor or the store does not answer now: `pool` and `job` are what shared memory has about them.",
}
_ERROR: Final[Mapping[str, Any]] = shapes.object_of(
    "An answer that is an error.",
    error=shapes.object_of(
        "What is wrong.", title={"type": "string"}, detail={"type": "string"}, status={"type": "integer"}
    ),
)

_OWN: Final[Mapping[str, Any]] = {"type": "object", "description": "An OpenAPI document."}


class Document:
    """Makes the document of some calls and the schemas of their answers."""

    def __init__(self, endpoints: Sequence[Endpoint], schemas: Schemas) -> None:
        self._endpoints = endpoints
        self._schemas = schemas

    def make(self) -> dict[str, Any]:
        """Return the document. Its paths are relative to the place of the document itself: the web face may be mounted."""
        paths: dict[str, dict[str, Any]] = {}
        for endpoint in self._endpoints:
            place = "/" + endpoint.path.removeprefix("api/1/")
            paths.setdefault(place, {})[endpoint.method.lower()] = _operation(endpoint)
        return {
            "openapi": "3.1.0",
            "info": {"title": "procjobs", "version": procjobs.__version__, "description": _ABOUT},
            "servers": [{"url": "."}],
            "paths": dict(sorted(paths.items())),
            "components": {
                "schemas": {**{name: make() for name, make in self._schemas.items()}, "Error": _ERROR, "OpenApi": _OWN},
                "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
            },
            "security": [{"bearer": []}],
        }


def _operation(endpoint: Endpoint) -> dict[str, Any]:
    named = [
        {"name": name, "in": "path", "required": True, "schema": _PLACE_SCHEMAS[name]}
        for name in _PLACES.findall(endpoint.path)
    ]
    is_read = endpoint.method == "GET"
    queried = [_parameter(one) for one in endpoint.all_parameters] if is_read else []
    operation: dict[str, Any] = {
        "operationId": _operation_id(endpoint),
        "summary": endpoint.about,
        "description": f"Needs the right to {endpoint.right}." if endpoint.right != "public" else "Needs signed ids.",
        "parameters": [*named, *queried],
        "responses": _responses(endpoint),
    }
    if not is_read:
        operation["requestBody"] = _body(endpoint.all_parameters)
    return operation if endpoint.right != "public" else {**operation, "security": []}


def _operation_id(endpoint: Endpoint) -> str:
    words = [word.strip("{}").removesuffix(".json") for word in endpoint.path.removeprefix("api/1/").split("/")]
    return "_".join([endpoint.method.lower(), *words])


def _parameter(parameter: Parameter) -> dict[str, Any]:
    return {
        "name": parameter.name, "in": "query", "required": parameter.is_required, "description": parameter.about,
        "schema": _schema(parameter),
    }  # fmt: skip


def _schema(parameter: Parameter) -> dict[str, Any]:
    schema = dict(parameter.schema)
    return {"type": "array", "items": schema, "maxItems": parameter.most} if parameter.is_many else schema


def _body(parameters: Sequence[Parameter]) -> dict[str, Any]:
    fields = {one.name: {**_schema(one), "description": one.about} for one in parameters}
    schema: dict[str, Any] = {"type": "object", "properties": fields, "additionalProperties": False}
    required = [one.name for one in parameters if one.is_required]
    if required:
        schema["required"] = required
    kinds = ("application/x-www-form-urlencoded", "application/json")
    return {"required": bool(required), "content": {kind: {"schema": schema} for kind in kinds}}


def _responses(endpoint: Endpoint) -> dict[str, Any]:
    content = {endpoint.media_type: {"schema": shapes.reference(endpoint.answer)}}
    found: dict[str, Any] = {"200": {"description": endpoint.about, "content": content}}
    if endpoint.method == "POST":
        found["303"] = {"description": "Done, for a form that has said with `next` where to go."}
    error = {"application/json": {"schema": shapes.reference("Error")}}
    for status, about in _PROBLEMS.items():
        if endpoint.method == "POST" or status not in {409, 415}:
            found[str(status)] = {"description": about, "content": error}
    return found


def endpoint_of(document: Document) -> Endpoint:
    """Return the call that answers with the document."""

    def show(_call: Call) -> dict[str, Any]:
        return document.make()

    return Endpoint("GET", "api/1/openapi.json", "read", show, "This document", "OpenApi", is_of_pool=False)
