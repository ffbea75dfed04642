"""The pager: the one that the user names, the system's, or none."""

import os
import pydoc
import subprocess
import sys

from rich.pager import Pager as _Pager

_MISSING = (126, 127)  # what a shell answers if it cannot run a command


class Pager(_Pager):
    """Shows text page by page."""

    def show(self, content: str) -> None:
        """Show text; print it if the pager that is named in ``PAGER`` is not there."""
        command = os.environ.get("MANPAGER") or os.environ.get("PAGER")
        if not command:
            pydoc.pager(content)
            return
        sys.stdout.flush()
        done = subprocess.run(command, shell=True, input=content, text=True, stderr=subprocess.PIPE, check=False)  # noqa: S602 - it is the user's own
        if done.returncode in _MISSING:
            print(content, end="")  # noqa: T201
            print(f"autobackbone: there is no pager {command!r}; set PAGER to another.", file=sys.stderr)  # noqa: T201
        else:
            sys.stderr.write(done.stderr)
