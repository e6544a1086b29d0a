"""A server that speaks the routes of the progress half, and fails as a test wants it to."""

from __future__ import annotations

import asyncio
import json
import zlib
from pathlib import Path

from starlette.applications import Starlette
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

import procjobs.web

from .browsing import no_icon, page_of

SCRIPT = Path(procjobs.web.__file__).parent / "static" / "procjobs.js"


def running(job_id, fraction, message=None, **more):
    """Return a document of a running job."""
    progress = {"value": fraction, "total": 1.0, "fraction": fraction, "message": message, "eta": None, **more}
    return {"id": job_id, "state": "running", "done": False, "started_at": None, "progress": progress}


def ended(job_id, state, error=None):
    """Return a document of a job that has ended."""
    return {"id": job_id, "state": state, "done": True, "started_at": None, "progress": None, "error": error}


class FakeJobs:
    """Documents that a test sets, the page that shows them, and what was asked for."""

    def __init__(self):
        self.documents = {}
        self.body = ""
        self.events_status = 200
        self.status_status = 200
        self.poll_after = 0.05
        self.drops = False  # each stream ends after its first document
        self.is_silent = False  # streams are opened, and nothing comes
        self.asked = []  # (path, number of ids)
        self.cancel_status = 200
        self.cancelled = []
        self.open_streams = 0
        routes = [
            Route("/", self.page),
            Route("/favicon.ico", no_icon),
            Route("/jobs/procjobs.js", self.javascript),
            Route("/jobs/api/1/events", self.events),
            Route("/jobs/api/1/status", self.status),
            Route("/jobs/api/1/cancel", self.cancel, methods=["POST"]),
        ]
        self.app = Starlette(routes=routes)

    def asked_for(self, path):
        """Return how many ids each request for a path was about."""
        return [ids for asked, ids in self.asked if asked == path]

    async def page(self, request):
        return page_of(self.body, '<script type="module" src="/jobs/procjobs.js"></script>')

    async def javascript(self, request):
        return FileResponse(SCRIPT, media_type="text/javascript")

    def take(self, request):
        ids = [token.partition(".")[0] for token in request.query_params.getlist("id")]
        self.asked.append((request.url.path.rpartition("/")[2], len(ids)))
        return ids

    def find(self, job_id):
        return self.documents.get(job_id, {"id": job_id, "state": "unknown"})

    async def status(self, request):
        ids = self.take(request)
        answer = {"jobs": [self.find(job_id) for job_id in ids], "poll_after": self.poll_after}
        etag = f'"{zlib.crc32(json.dumps(answer).encode())}"'
        if self.status_status == 200 and request.headers.get("if-none-match") == etag:
            return Response(status_code=304, headers={"ETag": etag})
        return JSONResponse(answer, status_code=self.status_status, headers={"ETag": etag})

    async def events(self, request):
        ids = self.take(request)
        if self.events_status != 200:
            return Response(status_code=self.events_status)
        return StreamingResponse(self.stream(request, ids), media_type="text/event-stream")

    async def stream(self, request, ids):
        self.open_streams += 1
        try:
            seen = {}
            while not await request.is_disconnected():
                if not self.is_silent:
                    yield ": ping\r\n\r\n"
                for job_id in [] if self.is_silent else ids:
                    if seen.get(job_id) != (document := self.find(job_id)):
                        seen[job_id] = document
                        yield f"event: status\r\ndata: {json.dumps(document)}\r\n\r\n"
                if self.drops:
                    return
                if seen and all(document.get("done", True) for document in seen.values()):
                    yield "event: end\r\ndata: {}\r\n\r\n"
                    return
                await asyncio.sleep(0.02)
        finally:
            self.open_streams -= 1

    async def cancel(self, request):
        form = (await request.body()).decode()
        self.cancelled.append(form)
        return JSONResponse({}, status_code=self.cancel_status)
