"""A TurboGears 2 application (minimal mode, SQLAlchemy) whose jobs run in a pool that all web workers share.

    pip install 'procjobs[turbogears]' gunicorn
    gunicorn -w 3 --chdir examples/turbogears app:application

Then open http://127.0.0.1:8000. FILMS_DATABASE is the URL of the database, by default a SQLite file beside this one.
"""

import os
from pathlib import Path

import model
from controllers import RootController
from tg import MinimalApplicationConfigurator
from tg.configurator.components.sqlalchemy import SQLAlchemyConfigurationComponent
from tg.configurator.components.transactions import TransactionManagerConfigurationComponent

from procjobs.compat import asyncjob

DATABASE = os.environ.get("FILMS_DATABASE", f"sqlite:///{Path(__file__).with_name('films.sqlite')}")

config = MinimalApplicationConfigurator()
config.register(SQLAlchemyConfigurationComponent)
config.register(TransactionManagerConfigurationComponent)
config.update_blueprint(
    {
        "root_controller": RootController(),
        "use_sqlalchemy": True,
        "sqlalchemy.url": DATABASE,
        "model": model,
        "renderers": ["json"],
        "errorpage.enabled": False,
    }
)
asyncjob.plugme(config, {"name": os.environ.get("FILMS_POOL", "films"), "workers": 2, "preload": ["controllers"]})
application = config.make_wsgi_app()
model.create_tables(model.DBSession.get_bind())
