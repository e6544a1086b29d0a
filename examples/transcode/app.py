"""Films for the web: upload, encode, watch. The application in FastAPI; flask_app.py is the same in Flask.

    pip install 'procjobs[examples]'
    python examples/transcode/app.py [--port 8000]

Then open the address that it prints, upload a film, or let it paint a sample. It shows these features of procjobs:

- `encoding.py` has the jobs. `procjobs.ffmpeg.run` reports the progress of ffmpeg, and ends it when the job is cancelled. A
  film is encoded in pieces, with a `procjobs.checkpoint` after each: kill the worker, the supervisor or everything, start
  again, and the film goes on where it was. It is encoded once, however often somebody asks (`key=`, `unique=True`);
- `films.py` has the pool, with a database: jobs survive. Uploads that were answered are never lost;
- `procjobs.web.progress` and `procjobs.web.tag` are the bars: signed addresses, live events, a button to cancel;
- `upload.py` writes uploads to the disk as they arrive. Names of files come from this site, never from its users;
- the pages have a strict Content-Security-Policy: nothing is inline.

There are no users here: whoever reaches the port may upload, watch and delete. So it listens on this host only. Films are in
./transcode-data, or where the variable TRANSCODE_DATA says.
"""

from __future__ import annotations

import argparse
from typing import Annotated

import encoding
import films
import pages
import uvicorn
from fastapi import Depends, FastAPI, Form, HTTPException, Request
from fastapi.responses import FileResponse, HTMLResponse, PlainTextResponse, RedirectResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from upload import Upload, UploadRefused

import procjobs.web

films.DATA.mkdir(parents=True, exist_ok=True, mode=0o700)


def keep_others_out(request: Request) -> None:
    if request.method == "POST" and pages.is_foreign(request.headers):
        raise HTTPException(403, "this request comes from another site")


class WithHeaders:
    """Puts the headers of all pages on answers that have none of their own."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_more(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in pages.HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, send_more)


app = FastAPI(title="Films for the web", openapi_url=None, dependencies=[Depends(keep_others_out)])
app.add_middleware(WithHeaders)
app.mount("/jobs", procjobs.web.progress(films.pool, cancel=True))
app.mount("/static", StaticFiles(directory=pages.STATIC))


@app.exception_handler(LookupError)
async def say_not_found(_request: Request, _error: LookupError) -> Response:
    return PlainTextResponse("there is no such film", 404)


@app.exception_handler(UploadRefused)
async def say_refused(_request: Request, error: UploadRefused) -> Response:
    return HTMLResponse(await run_in_threadpool(pages.index, str(error)), error.status)


@app.get("/")
def index() -> Response:
    return HTMLResponse(pages.index(), headers={"Cache-Control": "no-store"})


@app.post("/films")
async def take_film(request: Request) -> Response:
    headers = request.headers
    upload = await run_in_threadpool(Upload, headers.get("content-type", ""), headers.get("content-length"))
    try:
        async for data in request.stream():
            await run_in_threadpool(upload.write, data)
        await run_in_threadpool(upload.finish)
    except BaseException:  # the user has gone away, for instance
        await run_in_threadpool(upload.discard)
        raise
    return RedirectResponse("/", 303)


@app.post("/samples")
def paint_sample(format: Annotated[str, Form()] = "mp4") -> Response:  # noqa: A002 - the name of the field
    if format not in encoding.formats():
        raise UploadRefused(400, "this format is not made here")
    films.begin_sample(format)
    return RedirectResponse("/", 303)


@app.get("/films/{film_id}/card")
def card(film_id: str) -> Response:
    return HTMLResponse(pages.one_card(film_id), headers={"Cache-Control": "no-store"})


@app.post("/films/{film_id}/again")
def encode_again(film_id: str) -> Response:
    films.begin(films.load(film_id))
    return RedirectResponse("/", 303)


@app.post("/films/{film_id}/remove")
def remove(film_id: str) -> Response:
    films.remove(films.load(film_id))
    return RedirectResponse("/", 303)


@app.get("/films/{film_id}/{name}")
def film_file(film_id: str, name: str, download: bool = False) -> Response:
    path, kind, title = pages.file_of(film_id, name)
    how = "attachment" if download else "inline"
    return FileResponse(path, media_type=kind, filename=title, content_disposition_type=how)


def main() -> None:
    parser = argparse.ArgumentParser(description="Films for the web: upload, encode, watch.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    arguments = parser.parse_args()
    uvicorn.run(app, host=arguments.host, port=arguments.port, log_level="warning" if arguments.port == 0 else "info")


if __name__ == "__main__":
    main()
