"""The Flask blueprint and the Django patterns: the same answers below a prefix, with the users of the framework."""

from __future__ import annotations

import types

import django
import flask
import pytest
from django.conf import settings
from django.core.handlers.wsgi import WSGIHandler
from django.test.utils import override_settings
from django.urls import clear_url_caches, include, path

from procjobs.errors import ConfigurationError
from procjobs.web import blueprint, sign, urls

USERS = {
    "anna": {"is_active": True, "is_staff": True, "is_superuser": False, "permissions": ()},
    "otto": {"is_active": True, "is_staff": True, "is_superuser": False, "permissions": ("procjobs.operate",)},
    "root": {"is_active": True, "is_staff": True, "is_superuser": True, "permissions": ()},
    "guest": {"is_active": True, "is_staff": False, "is_superuser": False, "permissions": ()},
    "gone": {"is_active": False, "is_staff": True, "is_superuser": True, "permissions": ()},
}
urlpatterns = []


def log_in(get_response):
    """Stand in for Django's AuthenticationMiddleware: the user is whoever the request says."""

    def handle(request):
        user = dict(USERS.get(request.headers.get("x-user"), USERS["guest"]))
        permissions = user.pop("permissions")
        request.user = types.SimpleNamespace(**user, has_perm=permissions.__contains__)
        return get_response(request)

    return handle


@pytest.fixture(scope="module")
def configured():
    """Django with settings of these tests; another test of this process may have configured it."""
    if not settings.configured:
        settings.configure()
    django.setup()
    with override_settings(
        ALLOWED_HOSTS=["127.0.0.1"], ROOT_URLCONF=__name__, USE_TZ=True,
        MIDDLEWARE=["django.middleware.csrf.CsrfViewMiddleware", f"{__name__}.log_in"],
        TEMPLATES=[{"BACKEND": "django.template.backends.django.DjangoTemplates",
                    "OPTIONS": {"libraries": {"procjobs": "procjobs.web.django_tags"}}}],
    ):  # fmt: skip
        yield


@pytest.fixture
def django_app(configured):
    def make(pool, **options):
        urlpatterns[:] = [path("jobs/", include(urls(pool, **options)))]
        clear_url_caches()
        return WSGIHandler()

    yield make
    urlpatterns.clear()
    clear_url_caches()


def read_form():
    """Read each form before the view does, as extensions do that check forms."""
    assert flask.request.form is not None


def flask_app(pool, **options):
    app = flask.Flask("films")
    app.config["MAX_CONTENT_LENGTH"] = 4 << 20
    app.before_request(read_form)
    app.register_blueprint(blueprint(pool, **options), url_prefix="/jobs")
    return app


@pytest.fixture(params=["flask", "django"])
def mount(request, serve_wsgi):
    make = flask_app if request.param == "flask" else request.getfixturevalue("django_app")
    return lambda pool, **options: serve_wsgi(make(pool, **options), "/jobs")


def test_pages_of_a_framework_show_and_cancel_jobs(mount, pool):
    served = mount(pool, dashboard=False)
    job = pool.submit(pow, 2, 3)
    job.result(30)
    answer = served.get("api/1/status", id=sign(job))
    assert ["succeeded"] == [document["state"] for document in answer.json()["jobs"]]
    assert "application/json; charset=utf-8" == answer.headers["Content-Type"]
    assert {"id": job.id, "cancelled": False} == served.post("api/1/cancel", id=sign(job, cancel=True)).json()
    back = served.post("api/1/cancel", id=sign(job, cancel=True), next="job?id=1")
    assert (303, "/jobs/job?id=1") == (back.status, back.headers["Location"])
    foreign = served.post("api/1/cancel", id=sign(job, cancel=True), headers={"Sec-Fetch-Site": "cross-site"})
    assert 403 == foreign.status
    assert 413 == served.announce("api/1/cancel", 2 << 20).status
    assert {404} == {served.get(path).status for path in ("api/1/events", "api/1/stats", "", "nothing")}
    assert 405 == served.ask("DELETE", "api/1/status", headers={"Authorization": "Bearer x"}).status
    assert 404 != served.get("procjobs.js").status


def test_flask_is_closed_until_authorize_opens_it(serve_wsgi, shared_pool):
    assert 403 == serve_wsgi(flask_app(shared_pool), "/jobs").get("api/1/stats").status
    served = serve_wsgi(flask_app(shared_pool, authorize=lambda request: request.headers.get("X-Right")), "/jobs")
    assert [200, 403] == [served.get("api/1/stats", headers=given).status for given in ({"X-Right": "read"}, {})]


@pytest.mark.parametrize(
    ("user", "reads", "resizes", "cancels"),
    [("anna", 200, 403, 403), ("otto", 200, 403, 404), ("root", 200, 200, 404), ("guest", 403, 403, 403),
     ("gone", 403, 403, 403)],
)  # fmt: skip
def test_users_of_django_may_what_django_says(django_app, serve_wsgi, pool, user, reads, resizes, cancels):
    served = serve_wsgi(django_app(pool), "/jobs")
    headers = {"X-User": user, "Sec-Fetch-Site": "same-origin"}
    assert reads == served.get("api/1/stats", headers=headers).status
    assert resizes == served.post("api/1/pool/resize", headers=headers, workers=1).status
    unknown = "api/1/jobs/01900000-0000-7000-8000-000000000000/cancel"
    assert cancels == served.post(unknown, headers=headers).status


def test_django_checks_its_hosts(django_app, serve_wsgi, shared_pool):
    served = serve_wsgi(django_app(shared_pool, dashboard=False), "/jobs")
    assert 400 == served.ask("GET", "api/1/status", headers={"Host": "evil.example"}).status


def test_tag_of_django_templates_is_a_bar(configured):
    from django.template import engines

    text = '{% load procjobs %}{% procjobs_progress job "Film <7>" src="/jobs/" %}'
    job = "01900000-0000-7000-8000-000000000000"
    shown = engines["django"].from_string(text).render({"job": job})
    assert "<procjobs-progress" in shown
    assert 'label="Film &lt;7&gt;"' in shown


@pytest.mark.parametrize("shell", [blueprint, urls])
def test_callables_that_nothing_could_await_are_refused(configured, shared_pool, shell):
    async def later(*_):
        return True

    with pytest.raises(ConfigurationError, match="authorize_job is asynchronous"):
        shell(shared_pool, authorize_job=later)
