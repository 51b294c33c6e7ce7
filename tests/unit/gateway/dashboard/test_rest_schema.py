"""The REST interface keeps its own description: drawn calls never make a server fault."""

import json

import pytest
import schemathesis
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from tests.pages import token_in

EXAMPLES = 4


def operations(app):
    schema = schemathesis.openapi.from_dict(app.openapi())
    return [result.ok() for result in schema.get_all_operations()]


def test_description_is_openapi_and_names_every_call_of_the_pages(app, client):
    described = client.get("/api/openapi.json").json()
    assert described["openapi"].startswith("3.1")
    calls = {f"{method} {path}" for path, found in described["paths"].items() for method in found}
    assert {
        "get /api/studies",
        "get /api/studies/count",
        "post /api/studies/orders",
        "get /api/studies/{uid}/history",
        "get /api/overview",
        "get /api/queues",
        "get /api/failures",
        "post /api/failures/{cause}/care",
        "post /api/failures/{cause}/replay",
        "get /api/quarantine",
        "post /api/quarantine/{instance_id}/release",
        "get /api/views",
        "post /api/views",
        "delete /api/views/{view_id}",
    } <= calls
    page = client.get("/api").text
    for path in described["paths"]:
        assert path in page


def test_drawn_calls_make_no_server_fault(app, client, kept):
    kept.completed()
    token = token_in(client.get("/studies").text)
    described = app.openapi()
    # Documents have tests of their own; a self-test needs a listener, and none runs here.
    left_out = ("/documents", "/self-test")
    drawn = [each for each in operations(app) if not each.path.endswith(left_out)]
    assert drawn

    @settings(max_examples=EXAMPLES * len(drawn), database=None)
    @given(st.data())
    def call(data) -> None:
        operation = data.draw(st.sampled_from(drawn))
        case = data.draw(operation.as_strategy())
        path = case.formatted_path
        content = None
        if isinstance(case.body, dict | list | str | int | float | bool) or case.body is None:
            content = json.dumps(case.body).encode()
        answer = client.request(
            case.method,
            path,
            params={k: v for k, v in (case.query or {}).items() if v is not None},
            content=content if case.method not in {"GET", "HEAD"} else None,
            headers={"x-csrf-token": token, "content-type": "application/json"},
        )
        assert answer.status_code < 500, (case.method, operation.path, answer.text)
        if answer.status_code == 200 and "application/json" in answer.headers["content-type"]:
            keep(described, operation.path, case.method.lower(), answer.json())

    call()


def keep(described, path: str, method: str, content) -> None:
    """Check an answer against its description."""
    found = described["paths"][path][method]["responses"].get("200", {})
    schema = found.get("content", {}).get("application/json", {}).get("schema")
    if schema:
        whole = {**schema, "components": described["components"]}
        Draft202012Validator(whole).validate(content)


@pytest.mark.parametrize("path", ["/api", "/api/openapi.json"])
def test_description_needs_a_login(stranger, path):
    assert stranger.get(path).status_code in {303, 401}
