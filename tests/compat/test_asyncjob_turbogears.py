"""Plugging asyncjob into a TurboGears application, in processes of their own: TurboGears' configuration is global."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

from tests.databases import _missing

APPLICATION = """
import sys
from tg import MinimalApplicationConfigurator, TGController, expose
from procjobs.compat import asyncjob

class RootController(TGController):
    pass

config = MinimalApplicationConfigurator()
config.update_blueprint({"root_controller": RootController(), "renderers": ["json"], **SETTINGS})
PLUG
application = config.make_wsgi_app()

def main():
    handle = asyncjob.start_async_worker()

    def job():
        import tg

        return tg.config["greeting"]

    uid = asyncjob.asyncjob_perform(job)
    while asyncjob.asyncjob_get_progress(uid) is not None:
        pass
    status = handle.pool.status(uid)
    assert status.state == "succeeded", status
    print(handle.pool.name, handle.pool.worker_count())
    handle.pool.stop()
"""


@pytest.mark.parametrize(
    ("plug", "settings"),
    [
        ("asyncjob.plugme(config, {'name': NAME, 'workers': 3})", {}),
        ("asyncjob.plugme(config)", {"asyncjob.name": "NAME", "asyncjob.workers": "3"}),
        ("from tgext.pluggable import plug; plug(config, 'procjobs.compat.asyncjob', name=NAME, workers=3)", {}),
    ],
    ids=["plugme with options", "plugme with settings of the application", "tgext.pluggable"],
)
def test_plugged_into_an_application(tmp_path, pool_name, plug, settings):
    for module in ("tg", "tgext.pluggable") if "pluggable" in plug else ("tg",):
        importlib.util.find_spec(module) or _missing(module)
    settings = {name: pool_name if value == "NAME" else value for name, value in settings.items()}
    settings["greeting"] = "hello"
    text = APPLICATION.replace("PLUG", plug).replace("SETTINGS", repr(settings)).replace("NAME", repr(pool_name))
    (tmp_path / "application.py").write_text(text)
    command = [sys.executable, "-c", "import application; application.main()"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=90)
    assert 0 == done.returncode, done.stderr
    assert f"{pool_name} 3" == done.stdout.strip()
