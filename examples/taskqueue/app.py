"""A guest book whose work is done by tasks: a push queue, a pull queue, and deferred calls.

    pip install 'procjobs[taskqueue]' gunicorn
    gunicorn --chdir examples/taskqueue --workers 2 --bind 127.0.0.1:8000 app:application

    curl -d name=Ann http://127.0.0.1:8000/             # a task for /tasks/greet, and a deferred call two seconds later
    curl http://127.0.0.1:8000/                         # what the queues have to do
    curl -X POST http://127.0.0.1:8000/letters          # take the letters that wait
"""

import json
import os
import pathlib
from urllib.parse import parse_qs

from procjobs.compat import taskqueue
from procjobs.compat.taskqueue import deferred

taskqueue.configure(
    base_url=os.environ.get("GUESTBOOK_URL", "http://127.0.0.1:8000"),
    queue_yaml=pathlib.Path(__file__).with_name("queue.yaml"),
    store=os.environ.get("GUESTBOOK_STORE", "sqlite:///guestbook.db"),
)


def sign(form):
    """A guest: greet at once, and ask two seconds later how it was."""
    task = taskqueue.add(url="/tasks/greet", params={"name": form["name"]})
    deferred.defer(ask_how_it_was, form["name"], _countdown=2)
    return {"task": task.name}


def greet(form):
    """The handler of the tasks of /tasks/greet."""
    write_letter(f"Hello {form['name']}!", tag="greeting")
    return {}


def ask_how_it_was(name):
    write_letter(f"How was it, {name}?", tag="question")


def write_letter(text, tag):
    taskqueue.Queue("letters").add(taskqueue.Task(text, method="PULL", tag=tag))


def take_letters(_form):
    """Take up to ten letters. They come back after a minute if this process ends before they are deleted."""
    letters = taskqueue.Queue("letters")
    leased = letters.lease_tasks(60, 10)
    texts = [task.payload.decode() for task in leased]
    if leased:
        letters.delete_tasks(leased)
    return texts


def look(_form):
    """What the queues have to do."""
    names = ("default", "letters")
    found = taskqueue.QueueStatistics.fetch([taskqueue.Queue(name) for name in names])
    return {name: one.tasks for name, one in zip(names, found, strict=True)}


PAGES = {("POST", "/"): sign, ("GET", "/"): look, ("POST", "/letters"): take_letters, ("POST", "/tasks/greet"): greet}


def pages(environ, start_response):
    page = PAGES.get((environ["REQUEST_METHOD"], environ["PATH_INFO"]))
    is_task = environ["PATH_INFO"].startswith("/tasks/")
    if page is None or (is_task and "HTTP_X_APPENGINE_TASKNAME" not in environ):  # nobody but the queue can send it
        start_response("404 Not Found", [("Content-Type", "text/plain")])
        return [b"Not found\n"]
    body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0)).decode()
    form = {name: values[0] for name, values in parse_qs(body).items()}
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(page(form)).encode() + b"\n"]


application = taskqueue.wrap_wsgi_app(pages, use_deferred=True)
