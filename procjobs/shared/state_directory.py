"""The directory for files that outlive a pool: $XDG_STATE_HOME/procjobs, without it ~/.local/state/procjobs.

As in the XDG Base Directory Specification, a path that is not absolute counts as none. Services and containers often have no
home, or one that is not there on purpose (`/nonexistent`): then there is no such directory, and none is invented.
"""

from __future__ import annotations

import os


def find_state_directory() -> str | None:
    """Return the path; None where this user has no home. Makes nothing."""
    state = os.environ.get("XDG_STATE_HOME", "")
    if os.path.isabs(state):
        return f"{state}/procjobs"
    home = find_home()
    return None if home is None else f"{home.rstrip('/')}/.local/state/procjobs"


def find_home() -> str | None:
    """Return the home directory of this user, if it exists: $HOME, or else that of the user database."""
    home = os.environ.get("HOME", "")
    if not os.path.isabs(home):
        import pwd

        try:
            home = pwd.getpwuid(os.getuid()).pw_dir
        except KeyError:  # an arbitrary user, as in a container
            return None
    return home if os.path.isabs(home) and os.path.isdir(home) else None
