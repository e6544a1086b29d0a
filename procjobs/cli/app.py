"""The group of all commands, and the edge of the program, where an error becomes a message and an exit code."""

from __future__ import annotations

import difflib
import importlib
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any, Final

import click

from procjobs.cli import problems, screen
from procjobs.version import __version__

COMMANDS: Final = {
    "Pools": {
        "start": "procjobs.cli.starting",
        "serve": "procjobs.cli.starting",
        "stop": "procjobs.cli.controlling",
        "drain": "procjobs.cli.controlling",
        "pause": "procjobs.cli.controlling",
        "resume": "procjobs.cli.controlling",
        "resize": "procjobs.cli.controlling",
        "reload": "procjobs.cli.controlling",
        "tune": "procjobs.cli.tuning",
        "web2py": "procjobs.cli.web2py",
    },
    "Jobs": {
        "run": "procjobs.cli.running",
        "submit": "procjobs.cli.running",
        "watch": "procjobs.cli.following",
        "logs": "procjobs.cli.following",
        "cancel": "procjobs.cli.controlling",
        "retry": "procjobs.cli.retrying",
        "run-now": "procjobs.cli.scheduling",
        "tasks": "procjobs.cli.tasks",
    },
    "Looking": {
        "status": "procjobs.cli.listing",
        "jobs": "procjobs.cli.listing",
        "history": "procjobs.cli.history",
        "workers": "procjobs.cli.listing",
        "queues": "procjobs.cli.listing",
        "schedules": "procjobs.cli.scheduling",
        "log": "procjobs.cli.log",
        "kinds": "procjobs.cli.health",
        "health": "procjobs.cli.health",
        "top": "procjobs.cli.top",
        "web": "procjobs.cli.web",
    },
    "Settings": {
        "host": "procjobs.cli.settings",
        "check": "procjobs.cli.settings",
    },
    "Help": {
        "demo": "procjobs.cli.demo",
        "doctor": "procjobs.cli.doctor",
    },
}
"""Sections of commands; each command with the module that has a function of its name, with _ for a dash."""

_EXIT_CODES: Final = "\n".join(f"  {code:<5}{meaning}" for code, meaning in problems.MEANINGS.items())
_EPILOG: Final = f"""\b
Exit codes:
{_EXIT_CODES}

\b
Every command has --json. Shell completion (or zsh_source, fish_source):
  eval "$(_PROCJOBS_COMPLETE=bash_source procjobs)"
"""


class _Sections(click.Group):
    """A group whose commands are imported when they are needed, and listed by section."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for section in COMMANDS.values() for name in section] + super().list_commands(ctx)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        for section in COMMANDS.values():
            if cmd_name in section:
                command: click.Command = getattr(
                    importlib.import_module(section[cmd_name]), cmd_name.replace("-", "_")
                )
                return command
        return super().get_command(ctx, cmd_name)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            code = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:  # the reader of the pipe has ended, such as head: that is no failure
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            return problems.OK
        return code

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            close = difflib.get_close_matches(args[0], self.list_commands(ctx), 2)
            guess = f"; did you mean {' or '.join(close)}?" if close else ""
            raise click.UsageError(f"there is no command {args[0]!r}{guess}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, names in COMMANDS.items():
            commands = [(name, self.get_command(ctx, name)) for name in names]
            with formatter.section(title):
                formatter.write_dl([(name, command.get_short_help_str(70)) for name, command in commands if command])


@click.group(
    cls=_Sections,
    epilog=_EPILOG,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="procjobs")
@click.pass_context
def procjobs(context: click.Context) -> None:
    """Process pools of this host: start them, give them jobs, watch them.

    A pool has a NAME and is shared by all processes of a user. A JOB is named by its id, or by a unique part of the id,
    such as its end.
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def run(arguments: Sequence[str]) -> int:
    """Run a command and return its exit code."""
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    as_json = "--json" in options
    warnings.showwarning = _show_warning  # type: ignore[assignment]  # it takes fewer arguments by name
    try:
        code = procjobs.main(arguments, prog_name="procjobs", standalone_mode=False)
    except (KeyboardInterrupt, click.Abort):
        return problems.INTERRUPTED
    except Exception as error:  # noqa: BLE001 - the edge of the program: explain() raises unknown errors again
        problem = problems.explain(error)
        problems.show(problem, as_json=as_json)
        return problem.code
    return code if isinstance(code, int) else problems.OK


def _show_warning(message: Warning | str, *_: object) -> None:
    screen.remark(f"procjobs: warning: {message}")
