"""A web application that gives work to the tasks of tasks.py, with nothing but the standard library.

    python examples/hopper/app.py sqlite:///hopper.db &           # http://127.0.0.1:8000
    procjobs tasks run -Q examples/hopper/tasks.py --db sqlite:///hopper.db
    curl -d 'task=report' -d 'args=["march"]' http://127.0.0.1:8000/
    curl http://127.0.0.1:8000/1
"""

import json
import pathlib
import sys
from urllib.parse import parse_qs
from wsgiref.simple_server import make_server

from procjobs.compat.taskhopper import ArgumentsNotJSON, TaskHopper, UnknownTask

TASKS = str(pathlib.Path(__file__).with_name("tasks.py"))


def make_application(url):
    """Return the WSGI application: POST adds a task, GET /ID shows one."""
    hopper = TaskHopper(url, tasks=TASKS)

    def add(environ):
        form = parse_qs(environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0)).decode())
        args = json.loads(form.get("args", ["[]"])[0])
        try:
            return "201 Created", {"id": hopper.add_task(form.get("task", [""])[0], args)}
        except (UnknownTask, ArgumentsNotJSON) as error:
            return "400 Bad Request", {"error": str(error)}

    def show(environ):
        number = environ["PATH_INFO"].strip("/")
        task = hopper.task(int(number)) if number.isdecimal() else None
        if task is None:
            return "404 Not Found", {"error": "there is no such task"}
        return "200 OK", {"status": task.status, "result": task.result, "traceback": task.traceback}

    def application(environ, start_response):
        status, document = (add if environ["REQUEST_METHOD"] == "POST" else show)(environ)
        start_response(status, [("Content-Type", "application/json")])
        return [json.dumps(document).encode() + b"\n"]

    return application


def main():
    url = sys.argv[1] if len(sys.argv) > 1 else "sqlite:///hopper.db"
    port = int(sys.argv[2]) if len(sys.argv) > 2 else 8000
    with make_server("127.0.0.1", port, make_application(url)) as server:
        print(f"http://127.0.0.1:{server.server_port}", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
