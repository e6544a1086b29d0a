"""What is written about the command line, against the command line.

`PROCJOBS_RENEW=1 python -m pytest tests/unit/test_docs.py` writes docs/cli-reference.md anew.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

click = pytest.importorskip("click")
from procjobs.cli import parameters, problems  # noqa: E402
from procjobs.cli.app import COMMANDS, procjobs  # noqa: E402
from procjobs.shared.environment_variables import COUNTING  # noqa: E402

DOCS = Path(__file__).parents[2] / "docs"
if not DOCS.is_dir():  # where the built wheel is tested
    pytest.skip("the documentation is not here", allow_module_level=True)
REFERENCE = DOCS / "cli-reference.md"


def command(name):
    """Return a command, also one of a group: `tasks run`."""
    found = procjobs
    for word in name.split():
        found = found.get_command(None, word)
    return found


def commands(names):
    """Return the names, each group followed by those of its commands."""
    found = []
    for name in names:
        found += [name, *(f"{name} {inner}" for inner in getattr(command(name), "commands", ()))]
    return found


ALL = commands([name for section in COMMANDS.values() for name in section])


def options(name):
    return [parameter for parameter in command(name).params if isinstance(parameter, click.Option)]


def common():
    """The options that every command has, as one that has no others has them."""
    return [option.opts for option in parameters.common(click.command()(lambda: None)).params]


def usage(name):
    made = command(name)
    pieces = made.collect_usage_pieces(click.Context(made))
    return " ".join(["procjobs", name, *pieces])


def row(option):
    names = ", ".join([*option.opts, *option.secondary_opts])
    value = "" if option.is_flag else f" {option.metavar}"
    default = f" Default: {option.default}." if option.show_default else ""
    text = f"{option.help}{default}".replace("|", "\\|")
    return f"| `{names}{value}` | {text} |"


def reference():
    """The text of the reference."""
    lines = ["# Every command", "", "Made from what `--help` says; `tests/unit/test_docs.py` checks it.", ""]
    lines += ["The whole story is in [cli.md](cli.md).", ""]
    lines += ["Every command has:", "", "| | |", "|---|---|", *(row(o) for o in options(ALL[0]) if o.opts in common())]
    for section, names in COMMANDS.items():
        lines += ["", f"## {section}"]
        for name in commands(names):
            lines += ["", f"### {name}", "", command(name).short_help, "", f"    {usage(name)}"]
            rows = [row(option) for option in options(name) if option.opts not in common()]
            lines += ["", "| | |", "|---|---|", *rows] if rows else []
    return "\n".join(lines) + "\n"


def test_reference_says_what_help_says():
    if os.environ.get("PROCJOBS_RENEW"):
        REFERENCE.write_text(reference())
    assert reference() == REFERENCE.read_text(), __doc__


def documents():
    return [DOCS.parent / "README.md", *sorted(DOCS.glob("*.md"))]


MENTIONED = re.compile(r"""(?:^[ ]{4}|\$[ ]|`|[(/"])procjobs[ ]([a-z][a-z0-9-]*)((?:[ ][^`|&;")]+)?)""", re.VERBOSE)


@pytest.mark.parametrize("path", documents(), ids=lambda path: path.name)
def test_commands_and_options_that_are_written_about_exist(path):
    for line in path.read_text().splitlines():
        for first, rest in MENTIONED.findall(line):
            inner = f"{first} {rest.split()[0]}" if rest.split() else first
            name = inner if inner in ALL else first
            assert name in ALL, line
            known = {opt for option in options(name) for opt in [*option.opts, *option.secondary_opts]} | {"--help"}
            words = rest.split(" # ")[0].split(" -- ")[0].split()
            assert {word.partition("=")[0] for word in words if re.match(r"--?[a-zA-Z]", word)} <= known, line


def test_every_command_is_written_about():
    text = (DOCS / "cli.md").read_text()
    assert [] == [name for name in ALL if not re.search(rf"`(procjobs )?{name}\b|procjobs {name}\b", text)]


def test_exit_codes_are_the_same_everywhere():
    codes = {problems.OK, problems.FAILED, problems.USAGE, problems.NOT_RUNNING, problems.UNKNOWN_JOB,
             problems.NO_SUPERVISOR, problems.INTERRUPTED}  # fmt: skip
    said = dict(re.findall(r"^\| (\d+) \| (.+) \|$", (DOCS / "cli.md").read_text(), re.MULTILINE))
    assert codes == set(map(int, said))
    for code, meaning in problems.MEANINGS.items():
        assert said[str(code)].startswith(meaning)
        assert f"{code:<5}{meaning}" in procjobs.epilog


@pytest.mark.parametrize("path", documents(), ids=lambda path: path.name)
def test_files_that_are_linked_to_exist(path):
    targets = re.findall(r"\]\(([^)#:\s]+)\)", path.read_text())
    assert [] == [target for target in targets if not (path.parent / target).exists()]


def test_variables_that_count_are_those_of_the_page():
    section = (DOCS / "code.md").read_text().split("## Variables of the environment")[1].split("`Pool(")[0]
    assert list(COUNTING) == re.findall(r"`([^`]+)`", section)
