"""Films for the web: the application of app.py, in Flask. Bars ask for their progress here, as WSGI has no live events.

    pip install 'procjobs[examples]'
    python examples/transcode/flask_app.py [--port 8000]
"""

from __future__ import annotations

import argparse

import encoding
import films
import pages
from flask import Flask, Response, redirect, request, send_file
from upload import Upload, UploadRefused
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.serving import run_simple

import procjobs.web

films.DATA.mkdir(parents=True, exist_ok=True, mode=0o700)
app = Flask(__name__)  # it serves ./static too
app.wsgi_app = DispatcherMiddleware(app.wsgi_app, {"/jobs": procjobs.web.progress_wsgi(films.pool, cancel=True)})


@app.before_request
def keep_others_out():
    if request.method == "POST" and pages.is_foreign({name.lower(): value for name, value in request.headers.items()}):
        return Response("this request comes from another site", 403, content_type="text/plain")
    return None


@app.after_request
def add_headers(response: Response) -> Response:
    for name, value in pages.HEADERS.items():
        response.headers.setdefault(name, value)
    if response.mimetype == "text/html":
        response.headers["Cache-Control"] = "no-store"
    return response


@app.errorhandler(LookupError)
def say_not_found(_error: LookupError):
    return Response("there is no such film", 404, content_type="text/plain")


@app.errorhandler(UploadRefused)
def say_refused(error: UploadRefused):
    return pages.index(str(error), poll=True), error.status


@app.get("/")
def index():
    return pages.index(poll=True)


@app.post("/films")
def take_film():
    upload = Upload(request.headers.get("Content-Type", ""), request.headers.get("Content-Length"))
    try:
        while data := request.stream.read(64 * 1024):
            upload.write(data)
        upload.finish()
    except BaseException:
        upload.discard()
        raise
    return redirect("/", 303)


@app.post("/samples")
def paint_sample():
    name = request.form.get("format", "mp4")
    if name not in encoding.formats():
        raise UploadRefused(400, "this format is not made here")
    films.begin_sample(name)
    return redirect("/", 303)


@app.get("/films/<film_id>/card")
def card(film_id: str):
    return pages.one_card(film_id, poll=True)


@app.post("/films/<film_id>/again")
def encode_again(film_id: str):
    films.begin(films.load(film_id))
    return redirect("/", 303)


@app.post("/films/<film_id>/remove")
def remove(film_id: str):
    films.remove(films.load(film_id))
    return redirect("/", 303)


@app.get("/films/<film_id>/<name>")
def film_file(film_id: str, name: str):
    path, kind, title = pages.file_of(film_id, name)
    is_download = request.args.get("download") == "true"
    return send_file(path, mimetype=kind, download_name=title, as_attachment=is_download, conditional=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Films for the web, in Flask.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    arguments = parser.parse_args()
    run_simple(arguments.host, arguments.port, app, threaded=True)


if __name__ == "__main__":
    main()
