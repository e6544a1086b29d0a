"""The pages of a site, asked without a server in front."""

from __future__ import annotations

import json

from procjobs.web.http import Request
from procjobs.web.routes import full_site
from procjobs.web.site import Options

SECRET = "a secret of tests, 32 bytes long."


class Answer:
    """What a site has answered."""

    def __init__(self, response):
        self.status = response.status
        self.body = response.body
        self.header = response.header

    @property
    def text(self):
        return self.body.decode()

    def json(self):
        return json.loads(self.body)


class PagesSite:
    """A site whose visitors have the right that they ask for."""

    def __init__(self, pools, **options):
        def authorize(request):
            return request.headers["x-right"]

        self.site = full_site(
            pools, Options(**options), authorize=authorize, access="signed", authorize_job=None, secret=SECRET
        )

    def get(self, path, *, right="admin", etag=None, **query):
        headers = {"host": "localhost", "x-right": right, **({} if etag is None else {"if-none-match": etag})}
        fields = {name: [value] for name, value in query.items()}
        return Answer(self.site.answer(Request("GET", path, query=fields, headers=headers)))
