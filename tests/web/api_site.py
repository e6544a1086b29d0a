"""The API of a site, asked without a server in front: `Site.answer` is what every shell calls."""

from __future__ import annotations

import json
from urllib.parse import urlencode

from jsonschema import Draft202012Validator

from procjobs.web.api.table import DOCUMENT
from procjobs.web.http import Request
from procjobs.web.routes import full_site
from procjobs.web.site import Options

SECRET = "a secret of tests, 32 bytes long."


class Api:
    """Asks a site, as a page of it, or as `headers` say."""

    def __init__(self, pools, *, right="admin", **options):
        authorize = None if right is None else lambda _: right
        self.site = full_site(
            pools, Options(**options), authorize=authorize, access="signed", authorize_job=None, secret=SECRET
        )

    def ask(self, method, path, *, query=None, form=None, body=None, headers=None):
        given = {"host": "localhost", "sec-fetch-site": "same-origin"} if headers is None else headers
        raw = b""
        if form is not None:
            raw = urlencode(form, doseq=True).encode()
            given = {**given, "content-type": "application/x-www-form-urlencoded"}
        elif body is not None:
            raw = json.dumps(body).encode()
            given = {**given, "content-type": "application/json"}
        texts = {
            name: [str(one) for one in value] if isinstance(value, list) else [str(value)]
            for name, value in (query or {}).items()
        }
        return self.site.answer(Request(method, f"api/1/{path}", query=texts, headers=given, body=raw))

    def get(self, path, **query):
        """Return the document that a call answers with; it fits its schema."""
        return self._checked(self.ask("GET", path, query=query), "get", path)

    def post(self, path, **form):
        return self._checked(self.ask("POST", path, form=form), "post", path)

    def problem(self, method, path, status, **given):
        """Return the whole document of an error, which has this status and fits its schema."""
        answer = self.ask(method, path, **given)
        assert status == answer.status, answer.body
        document = json.loads(answer.body)
        check("Error", document, closed=False)
        assert status == document["error"]["status"]
        return document

    def _checked(self, answer, method, path):
        assert 200 == answer.status, answer.body
        document = json.loads(answer.body)
        [content] = operation(method, path)["responses"]["200"]["content"].values()
        check(content["schema"]["$ref"].rpartition("/")[2], document)
        return document


DESCRIBED = DOCUMENT.make()


def operation(method, path):
    """Return what the OpenAPI document says of a call with this path."""
    parts = path.split("/")
    for pattern, operations in sorted(DESCRIBED["paths"].items(), key=lambda item: item[0].count("{")):
        wanted = pattern.strip("/").split("/")
        fits = len(parts) == len(wanted) and all(w.startswith("{") or w == p for w, p in zip(wanted, parts, strict=True))
        if fits and method in operations:
            return operations[method]
    raise AssertionError(f"the document does not describe {method} {path}")


def check(name, document, *, closed=True):
    """Assert that a document fits a schema of the OpenAPI document; with `closed`, that it has no field beside those."""
    components = _close(DESCRIBED["components"]) if closed else DESCRIBED["components"]
    schema = {"$ref": f"#/components/schemas/{name}", "components": components}
    validator = Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER)
    assert [] == [f"{error.json_path}: {error.message}" for error in validator.iter_errors(document)]


def _close(value):
    """Return schemas that let no field through which they do not have."""
    if isinstance(value, list):
        return [_close(one) for one in value]
    if not isinstance(value, dict):
        return value
    closed = {name: _close(one) for name, one in value.items()}
    if value.get("type") == "object" and isinstance(value.get("properties"), dict):
        closed.setdefault("additionalProperties", False)
    return closed
