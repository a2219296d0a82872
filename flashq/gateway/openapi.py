"""The HTTP door's description, OpenAPI 3.1, derived from its routes and the registry.

Owns the shape of the document. Every type in it is one that the door really reads or writes; what
has no type of its own (the envelope) is made here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from inspect import cleandoc
from typing import Any, Final

import msgspec
from msgspec import Struct

from flashq.gateway import http_requests
from flashq.gateway.http_replies import reply_fields, shape_of
from flashq.gateway.http_routes import OWN_ROUTES, PARAMETER_NOTES, Rights, Route, command_routes
from flashq.protocol.command import Command
from flashq.protocol.jobs import NewJob
from flashq.protocol.objects import FullJobView, FullStateView
from flashq.version import __version__

_PREFIX: Final = "#/components/schemas/"
_FULL: Final = {
    f"{_PREFIX}{short}": f"{_PREFIX}{full}"
    for short, full in (("JobView", "FullJobView"), ("StateView", "FullStateView"))
}
"""Replies over HTTP carry jobs with all their keys."""

_DESCRIPTION: Final = """\
Generated from flashq/protocol and flashq/gateway/http_routes.py by `python -m tools.generate`; \
do not edit.

Every answer is JSON: `{"ok": true, "data": ...}`, or with a status of 4xx or 5xx \
`{"ok": false, "error": text, "code": word, "retryable": bool}`. `retryable` promises that nothing \
happened. Times are Unix milliseconds, durations are milliseconds, ids are whole numbers up to \
2^53 - 1. Unknown members are ignored, and null stands for an optional member that is not there.

`x-role` of an operation is the least that a token has to allow, where the server has tokens."""

_ERROR: Final = {
    "type": "object",
    "description": "What is wrong.",
    "properties": {
        "ok": {"const": False},
        "error": {"type": "string"},
        "code": {"type": "string", "description": "A word that stays, for programs."},
        "retryable": {
            "type": "boolean",
            "description": "Nothing happened, and the same request can succeed later.",
        },
    },
    "required": ["ok", "error", "code"],
}
_TAGS: Final = {
    "jobs": "Adding, taking, ending and looking at jobs.",
    "queues": "Whole queues, and their dead letters.",
    "crons": "Jobs added by a schedule.",
    "webhooks": "Addresses that are told of what happens. For operators.",
    "events": "What happens, as it happens. Over WebSocket too: /ws, /ws/{queue}, /ws/dashboard.",
    "server": "Figures.",
    "workers": "Who works.",
    "health": "Whether it works; no token needed.",
    "operators": "For operators: a token is needed, or without tokens the server's own host.",
    "cluster": "Answers of a server that is one node, for older clients.",
}
_ID: Final = {"type": "integer", "minimum": 0, "maximum": 2**53 - 1}


def document() -> dict[str, Any]:
    """Return the whole document."""
    routes = [*command_routes(), *OWN_ROUTES]
    schemas = _Schemas(routes)
    paths: dict[str, dict[str, Any]] = {}
    names: set[str] = set()
    for route in sorted(routes, key=lambda route: (list(_TAGS).index(route.tag), route.path)):
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, schemas, names)
    found = {
        "openapi": "3.1.0",
        "info": {
            "title": "flashq",
            "description": _DESCRIPTION,
            "version": __version__,
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "tags": [{"name": name, "description": text} for name, text in _TAGS.items()],
        "security": [{}, {"bearer": []}, {"token": []}],
        "paths": paths,
        "components": {
            "schemas": schemas.components(),
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "token": {"type": "apiKey", "in": "query", "name": "token"},
            },
            "responses": {
                "Error": {
                    "description": "What is wrong.",
                    "content": _json({"$ref": f"{_PREFIX}Error"}),
                }
            },
        },
    }
    _forget_unused(found)
    return found


def render() -> str:
    """Return the document as a file."""
    compact = msgspec.json.encode(document())
    return msgspec.json.format(compact, indent=2).decode() + "\n"


def _forget_unused(found: dict[str, Any]) -> None:
    """Remove the schemas that nothing refers to any more."""
    schemas = found["components"]["schemas"]
    while unused := schemas.keys() - set(_referred(found)):
        for name in unused:
            del schemas[name]


def _referred(value: Any) -> Iterator[str]:
    """Yield the name of every schema that is referred to."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key == "$ref":
                yield inner.removeprefix(_PREFIX)
            else:
                yield from _referred(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _referred(inner)


class _Schemas:
    """The schemas of all types that routes name."""

    def __init__(self, routes: Iterable[Route]) -> None:
        types: list[Any] = [FullJobView, FullStateView, NewJob]
        for route in routes:
            if route.command is not None:
                types += (route.command.request, route.command.reply)
            types += [kind for kind in (route.body, route.data) if _is_type(kind)]
        found, components = msgspec.json.schema_components(types, ref_template=_PREFIX + "{name}")
        self._of: Final = dict(zip(map(str, types), found, strict=True))
        # Some releases of msgspec keep the indent of a docstring, others do not.
        self._components: Final = {
            name: {**schema, "description": cleandoc(schema["description"])}
            if "description" in schema
            else schema
            for name, schema in components.items()
        }
        self._requests: Final = {
            route.command.request.__name__ for route in routes if route.command is not None
        }
        self._replies: Final = {
            route.command.reply.__name__ for route in routes if route.command is not None
        }

    def of(self, kind: Any) -> Any:
        """Return the schema of a type, or what is one already."""
        return self._of[str(kind)] if _is_type(kind) else kind

    def struct(self, kind: type[Struct]) -> dict[str, Any]:
        """Return the full schema of a struct."""
        found: dict[str, Any] = self._components[kind.__name__]
        return found

    def components(self) -> dict[str, Any]:
        """Return the schemas that others refer to."""
        # What stands in an operation itself, and what only others' short forms are.
        hidden = self._requests | self._replies | {"JobView", "StateView"}
        kept = {name: schema for name, schema in self._components.items() if name not in hidden}
        tidy = {name: _with_full_jobs(schema) for name, schema in sorted(kept.items())}
        return {"Error": _ERROR, **tidy}


def _is_type(kind: Any) -> bool:
    return kind is not None and not isinstance(kind, dict)


def _with_full_jobs(schema: Any) -> Any:
    if isinstance(schema, dict):
        return {
            key: _FULL.get(value, value) if key == "$ref" else _with_full_jobs(value)
            for key, value in schema.items()
        }
    return [_with_full_jobs(item) for item in schema] if isinstance(schema, list) else schema


def _json(schema: Any) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _operation(route: Route, schemas: _Schemas, names: set[str]) -> dict[str, Any]:
    name = route.command.method if route.command is not None else route.handler
    if name in names:
        name = re.sub(r"\W+", "_", f"{route.method.lower()}{route.path}").strip("_")
    names.add(name)
    operation: dict[str, Any] = {
        "operationId": name,
        "summary": route.summary,
        "tags": [route.tag],
    }
    if route.rights is Rights.ANYBODY:
        operation["security"] = [{}]
    else:
        operation["x-role"] = route.role.value
    if route.command is not None and (text := _doc(route.command.request)):
        operation["description"] = text
    parameters = [_path_parameter(name) for name in re.findall(r"\{(\w+)\}", route.path)]
    parameters += _query_parameters(route, schemas)
    if parameters:
        operation["parameters"] = parameters
    body = _body(route, schemas)
    if body is not None:
        is_optional = route.command is not None and (
            route.command.word in http_requests.BODY_OPTIONAL
        )
        operation["requestBody"] = {"required": not is_optional, "content": _json(body)}
    operation["responses"] = {
        "200": _success(route, schemas),
        "default": {"$ref": "#/components/responses/Error"},
    }
    return operation


def _doc(request: type[Struct]) -> str:
    text = request.__dict__.get("__doc__") or ""
    return " ".join(text.split())


def _path_parameter(name: str) -> dict[str, Any]:
    is_job = name == "id"
    return {"name": name, "in": "path", "required": True, "schema": _ID if is_job else _text(name)}


def _text(name: str) -> dict[str, Any]:
    return {"type": "string", "minLength": 1, **({"maxLength": 256} if name == "queue" else {})}


def _query_parameters(route: Route, schemas: _Schemas) -> list[dict[str, Any]]:
    found = dict(route.query)
    command = route.command
    if command is not None and not http_requests.takes_body(command):
        properties = schemas.struct(command.request)["properties"]
        found |= {name: properties[name] for name in http_requests.open_fields(command)}
    elif command is not None and command.word == "RETRYDLQ":
        found["id"] = _ID
    word = "" if command is None else command.word
    return [
        {
            "name": name,
            "in": "query",
            "required": False,
            **({"description": note} if (note := PARAMETER_NOTES.get((word, name))) else {}),
            "schema": _not_null(schema),
        }
        for name, schema in found.items()
    ]


def _not_null(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a parameter that is left out where a body would say null."""
    choices = [one for one in schema.get("anyOf", ()) if one.get("type") != "null"]
    if len(choices) == 1:
        return dict(choices[0])
    return {key: value for key, value in schema.items() if key != "default"}


def _body(route: Route, schemas: _Schemas) -> Any:
    command = route.command
    if command is None:
        return None if route.body is None else schemas.of(route.body)
    if not http_requests.takes_body(command):
        return None
    full = schemas.struct(command.request)
    fields = http_requests.open_fields(command)
    properties = {name: full["properties"][name] for name in fields}
    required = [name for name in full.get("required", ()) if name in properties]
    body: dict[str, Any] = {"type": "object", "properties": properties}
    if required:
        body["required"] = required
    return body


def _success(route: Route, schemas: _Schemas) -> dict[str, Any]:
    if route.media is not None:
        return {
            "description": "The text.",
            "content": {route.media: {"schema": {"type": "string"}}},
        }
    beside: dict[str, Any] = {}
    if route.command is None:
        data = schemas.of(route.data)
    else:
        data, beside = _reply(route.command, schemas)
    envelope = {
        "type": "object",
        "properties": {"ok": {"const": True}, "data": data, **beside},
        "required": ["ok", "data"],
    }
    return {"description": "Done.", "content": _json(_with_full_jobs(envelope))}


def _reply(command: Command, schemas: _Schemas) -> tuple[Any, dict[str, Any]]:
    """Return the schemas of a command's data and of what stands beside it."""
    shape = shape_of(command)
    properties: dict[str, Any] = schemas.struct(command.reply)["properties"]
    beside = {name: properties.get(name, {}) for name in shape.beside}
    if "missing_shards" in properties:
        beside["missing_shards"] = properties["missing_shards"]
    if shape.schema is not None:
        return shape.schema, beside
    if shape.field is not None:
        return properties[shape.field], beside
    fields = reply_fields(command.reply)
    if not fields:
        return {"type": "null"}, beside
    return {"type": "object", "properties": {name: properties[name] for name in fields}}, beside
