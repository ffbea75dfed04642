"""The pager: the user's, the system's, or none."""

import os
import pydoc
import subprocess
import sys

from rich.pager import Pager as _Pager

_MISSING = (126, 127)  # exit statuses of a shell that cannot run a command


class Pager(_Pager):
    """Show text page by page."""

    def show(self, content: str) -> None:
        """Show text in the pager from ``MANPAGER`` or ``PAGER``; print it if that cannot be run."""
        command = os.environ.get("MANPAGER") or os.environ.get("PAGER")
        if not command:
            pydoc.pager(content)
            return
        sys.stdout.flush()
        done = subprocess.run(command, shell=True, input=content, text=True, stderr=subprocess.PIPE, check=False)  # noqa: S602 - the user's own command
        if done.returncode in _MISSING:
            print(content, end="")  # noqa: T201
            print(f"autobackbone: there is no pager {command!r}; set PAGER to another.", file=sys.stderr)  # noqa: T201
        else:
            sys.stderr.write(done.stderr)
