"""`doctor`: runs all checks and shows their findings."""

from __future__ import annotations

from typing import Final

import click

from procjobs.cli import checks, colours, parameters, screen, text
from procjobs.cli.problems import FAILED, OK

_STYLES: Final = {checks.OK: colours.GREEN, checks.WARN: f"bold {colours.AMBER}", checks.FAIL: f"bold {colours.RED}"}


@click.command(short_help="Find problems on this host, with advice.")
@parameters.common
def doctor(directory: str | None, as_json: bool) -> int:
    """Look for problems of pools: permissions, stale directories, limits, free space, versions, supervisors.

    Exit code 1 if a check fails; a warning is not a failure.
    """
    findings = [finding for check in checks.CHECKS for finding in check(directory)]
    failed = sum(finding.verdict == checks.FAIL for finding in findings)
    warned = sum(finding.verdict == checks.WARN for finding in findings)
    if as_json:
        screen.write_json({"ok": not failed, "checks": [finding._asdict() for finding in findings]})
        return FAILED if failed else OK
    from rich.text import Text

    console = screen.standard_output()
    for finding in findings:
        line = Text.assemble((f"{finding.verdict:<5}", _STYLES[finding.verdict]), f"{finding.check:<10} ", finding.detail)
        console.print(line, soft_wrap=True)
        if finding.advice:
            console.print(Text(f"{'':<16} {finding.advice}", style="dim"), soft_wrap=True)
    summary = f"{text.count(failed, 'failure')}, {text.count(warned, 'warning')}" if failed or warned else "all is well"
    screen.write(f"\n{summary}")
    return FAILED if failed else OK
