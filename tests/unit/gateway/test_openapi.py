"""The description of the HTTP door."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from flashq.gateway.http_routes import OWN_ROUTES, command_routes
from flashq.gateway.openapi import document

DOCUMENT = document()


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield path, method and description of each operation."""
    for path, methods in DOCUMENT["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def references(value: Any) -> Iterator[str]:
    """Yield every reference in the document."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key == "$ref":
                yield inner
            else:
                yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


def test_every_route_is_described() -> None:
    """Once, under a name that no other has."""
    described = {(method.upper(), path) for path, method, _ in operations()}
    assert described == {(route.method, route.path) for route in (*command_routes(), *OWN_ROUTES)}
    names = [operation["operationId"] for _, _, operation in operations()]
    assert len(names) == len(set(names))


def test_every_reference_leads_somewhere() -> None:
    """And nothing is described that nobody refers to."""
    found = set(references(DOCUMENT))
    for reference in found:
        place: Any = DOCUMENT
        for part in reference.removeprefix("#/").split("/"):
            place = place[part]
    schemas = {f"#/components/schemas/{name}" for name in DOCUMENT["components"]["schemas"]}
    assert schemas <= found


def test_every_name_in_a_path_is_a_parameter() -> None:
    """And is required."""
    for path, _, operation in operations():
        named = {
            parameter["name"]
            for parameter in operation.get("parameters", ())
            if parameter["in"] == "path" and parameter["required"]
        }
        assert named == set(re.findall(r"\{(\w+)\}", path))


def test_what_the_gateway_says_itself_is_not_asked_for() -> None:
    """Sessions and numbers are between gateway and shards; so is the command's word."""
    text = str(DOCUMENT["paths"])
    for name in ("done_below", "'session'", "'cmd'", "reqId"):
        assert name not in text


def test_a_push_is_described_with_its_options() -> None:
    """The payload may be anything, and is the only thing that must be there."""
    body = DOCUMENT["paths"]["/queues/{queue}/jobs"]["post"]["requestBody"]
    schema = body["content"]["application/json"]["schema"]
    assert schema["required"] == ["data"]
    assert {"data", "priority", "delay", "job_id", "durability"} <= schema["properties"].keys()
    assert "queue" not in schema["properties"]
