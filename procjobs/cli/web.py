"""`web`: the dashboard and the API of this user's pools, in the browser."""

from __future__ import annotations

import importlib.util
import os
import secrets
import webbrowser
from typing import TYPE_CHECKING, Final

import click

from procjobs.cli import finding, parameters, screen
from procjobs.cli.problems import FAILED, OK, Problem
from procjobs.shared import private_files

if TYPE_CHECKING:
    from collections.abc import Sequence

_NEEDED: Final = ("starlette", "sse_starlette", "uvicorn", "jinja2")
_LOOPBACK: Final = ("localhost", "127.0.0.1", "[::1]")
_MIN_TOKEN: Final = 16
_MAX_TOKEN: Final = 1000
_EVERYWHERE: Final = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}  # noqa: S104 - nobody binds by it
_ABOUT_FILE: Final = "it is made, for this user alone, if it is not there"


@click.command(short_help="Show pools and jobs in the browser, and serve their JSON API.")
@click.argument("pools", metavar="[POOL]...", nargs=-1, shell_complete=parameters.complete_pools)
@click.option(
    "--bind",
    default="127.0.0.1:8321",
    show_default=True,
    metavar="ADDRESS",
    help="Listen here: HOST:PORT (port 0: a free one), or unix:PATH.",
)
@click.option("--token-file", metavar="FILE", help="Keep the login token in this file, so that it stays the same.")
@click.option("--read-only", is_flag=True, help="Show everything, and let nobody change anything.")
@click.option("--allow-host", "hosts", multiple=True, metavar="HOST", help="Answer for this host name too.")
@click.option("--open", "is_opened", is_flag=True, help="Open the pages in the browser.")
@parameters.common
def web(
    pools: tuple[str, ...],
    bind: str,
    token_file: str | None,
    read_only: bool,
    hosts: tuple[str, ...],
    is_opened: bool,
    directory: str | None,
    as_json: bool,
) -> int:
    """Show the pools POOL..., or all running pools of this user, also those that come later, until Ctrl-C.

    The URL that it prints has a token, which lets one browser in. Nobody else sees anything, not even on this host.
    The pages cost the supervisors nothing while nobody looks, and keep no unused pool alive.
    """
    _check_installed()
    for name in pools:
        with finding.open_pool(name, directory):
            pass
    token = None if token_file is None else _read_token(token_file)
    from procjobs.cli import web_server
    from procjobs.web import OneTimeLogin, app

    login = OneTimeLogin(token)
    with web_server.ending_well(), web_server.listening(bind) as (listener, address):
        shown = web_server.ShownPools(pools, directory)
        try:
            allowed = _allowed_hosts(address, hosts)
            application = app(shown, authorize=login, read_only=read_only, allow_hosts=allowed)
            _say(address, login.link, pools, as_json=as_json)
            url = _url_of(address, login.link)
            if is_opened and url is not None:
                webbrowser.open(url)
            web_server.serve(web_server.Releasing(application, shown.disconnect), listener, shown.close)
        finally:
            shown.close()
    return OK


def _check_installed() -> None:
    missing = [name.replace("_", "-") for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise Problem(f"the web pages need {', '.join(missing)}", "pip install 'procjobs[web]'", FAILED)


def _read_token(path: str) -> str:
    """Return the token in a file, which is made if it is not there; raise Problem if others could read it."""
    try:
        fd = private_files.create(path)
    except FileExistsError:
        return _check_token(path)
    except OSError as error:
        raise Problem(f"the token file {path} cannot be made: {error.strerror}", _ABOUT_FILE) from None
    with os.fdopen(fd, "w") as file:
        token = secrets.token_urlsafe(32)
        file.write(f"{token}\n")
    return token


def _check_token(path: str) -> str:
    try:
        with open(path) as file:
            mode, token = os.fstat(file.fileno()), file.read(_MAX_TOKEN).strip()
    except (OSError, UnicodeDecodeError) as error:
        raise Problem(f"the token file {path} cannot be read: {error}", _ABOUT_FILE) from None
    if mode.st_mode & 0o077 or mode.st_uid != os.geteuid():
        raise Problem(f"others than its owner may use the token file {path}", f"chmod 600 {path}, and take a new token")
    if len(token) < _MIN_TOKEN or not token.isprintable() or " " in token:
        raise Problem(f"there is no token of at least {_MIN_TOKEN} characters in {path}", _ABOUT_FILE)
    return token


def _allowed_hosts(address: str, given: Sequence[str]) -> tuple[str, ...]:
    """Return the names in Host that are answered: this machine's, that of the address, and those that are given."""
    own = () if address.startswith("unix:") else (address.rpartition(":")[0],)
    return (*_LOOPBACK, *(host for host in own if host not in _EVERYWHERE), *given)


def _url_of(address: str, path: str) -> str | None:
    """Return the URL of a path, None at a Unix socket: only the server in front of it knows that."""
    if address.startswith("unix:"):
        return None
    host, _, port = address.rpartition(":")
    return f"http://{_EVERYWHERE.get(host, host)}:{port}/{path}"


def _is_local(address: str) -> bool:
    host = address.rpartition(":")[0]
    return host in _LOOPBACK or host.startswith("127.")


def _say(address: str, link: str, pools: Sequence[str], *, as_json: bool) -> None:
    url = _url_of(address, link)
    if as_json:
        screen.write_json({"url": url, "address": address, "path": f"/{link}", "pools": list(pools) or None}, is_line=True)
        return
    what = ", ".join(pools) if pools else "all pools of this user"
    screen.write(f"procjobs web shows {what} at")
    screen.write(f"  {url or f'{address}, path /{link}'}")
    screen.write("Ctrl-C ends it.")
    if url is not None and not _is_local(address):
        screen.remark("procjobs: warning: what is sent is not encrypted, and others can reach this address")
