"""The schedules that modules of a preload declare, and those of a settings file, as they go to the supervisor."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from procjobs.errors import PayloadError
from procjobs.host import payload
from procjobs.shared.config import JobOptions
from procjobs.shared.function_names import function_name
from procjobs.shared.schedule_wire import ScheduleRequest, parse
from procjobs.shared.wire import MAX_FUNCTION_BYTES, MAX_INLINE_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterable

    from procjobs.schedules.declared import ScheduledCall

_MODULE = "procjobs.schedules.declared"


def pack_declared(pool: str, job_defaults: dict[str, Any], of_file: Iterable[bytes] | None) -> list[bytes] | None:
    """Return a body of a SCHEDULE frame for each schedule that was declared in this process for the pool, or for any pool.

    Before them come those bodies `of_file` whose names were not declared here. None: neither modules nor the file say
    anything of schedules. Raise PayloadError, or ConfigurationError, for one that cannot be.
    """
    module = sys.modules.get(_MODULE)  # not loaded: nothing was declared
    declared: list[ScheduledCall] = [] if module is None else module.DECLARED
    defaults = JobOptions(**job_defaults)
    own = [call for call in declared if call.pool in {None, pool}]
    if of_file is None and not own:
        return None
    names = {call.schedule.name for call in own}
    kept = []
    for body in of_file or ():
        name = parse(body).schedule["name"]
        if name in names:
            sys.stderr.write(  # it goes into the log
                f"schedule {name!r} is the one that a module of preload declares; that of the settings file is not used\n"
            )
            sys.stderr.flush()  # or each worker would write it again
        else:
            kept.append(body)
    return kept + [pack_call(call, defaults) for call in own]


def pack_call(call: ScheduledCall, defaults: JobOptions) -> bytes:
    """Return the body of a SCHEDULE frame for a schedule that is declared; raise as `pack_declared`."""
    who = f"schedule {call.schedule.name!r}"
    options = defaults.but(call.options)
    try:
        function = payload.dump_function(call.fn)
        inline = payload.dump_inline((call.args, call.kwargs))
        if len(function) > MAX_FUNCTION_BYTES:
            function, inline = b"", payload.dump_inline((call.fn, call.args, call.kwargs))
    except Exception as error:
        raise PayloadError(f"{who}: its call cannot be pickled: {type(error).__name__}: {error}") from error
    if len(inline) > MAX_INLINE_BYTES:
        raise PayloadError(
            f"{who}: its call takes {len(inline)} bytes as a pickle, and one in a module of preload may take "
            f"{MAX_INLINE_BYTES}. Give it the path of a file, or declare it with Pool(schedules=[...])"
        )
    name = options.name or function_name(call.fn)
    description = json.dumps({"name": name[:1000], "options": asdict(options)}).encode()
    request = ScheduleRequest(0, call.schedule.to_json(), True, call.key, call.meta, description, function, inline)
    return request.pack()
