"""The command line: list, info, compare, features, extract, neighbors, duplicates, map, export, catalog."""

import io
import logging
import os
import sys
from pathlib import Path
from typing import NoReturn

import click

from autobackbone.cli.catalog import build, figures
from autobackbone.cli.compare import compare
from autobackbone.cli.duplicates import duplicates
from autobackbone.cli.export import export
from autobackbone.cli.extract import extract
from autobackbone.cli.features import features
from autobackbone.cli.info import info
from autobackbone.cli.list import list_command
from autobackbone.cli.map import map_command
from autobackbone.cli.neighbors import neighbors
from autobackbone.cli.words import in_options
from autobackbone.errors import BackboneError


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="autobackbone", message="%(prog)s %(version)s")
def app() -> None:
    """Vision backbones with one contract."""


@app.group()
def catalog() -> None:
    """The catalog of facts about backbones."""  # noqa: D401


for command in (list_command, info, compare, features, extract, neighbors, duplicates, map_command, export):
    app.add_command(command)
catalog.add_command(build)
catalog.add_command(figures)


def main() -> None:
    """Run the command line. A user's mistake prints one line on stderr and exits with status 2."""
    _prepare_output()
    logging.basicConfig(format="autobackbone: %(message)s")
    try:
        status = app.main(sys.argv[1:] or ["--help"], prog_name="autobackbone", standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.NoArgsIsHelpError as err:
        print(err.format_message())  # noqa: T201
        sys.exit(0)
    except click.ClickException as err:
        _stop(f"{err.format_message()} See --help.")
    except BrokenPipeError:  # the reader of the pipe has stopped
        _drop_output()
        sys.exit(1)
    except BackboneError as err:
        _stop(in_options(str(err), app))
    except OSError as err:
        _stop(str(err))
    except UnicodeEncodeError as err:  # lone surrogates
        _stop(f"{err.object!r} is no text that names of files can have.")
    except click.Abort:
        sys.exit(130)
    sys.exit(status if isinstance(status, int) else 0)


def _prepare_output() -> None:
    """Make sure that there is an output, and that it escapes what it cannot encode."""
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - open until the process ends
    if sys.stdout is None:  # the next opened file would get its descriptor
        _stop("standard output is closed; write to /dev/null what is not wanted.")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # some file names cannot be encoded
            stream.reconfigure(errors="backslashreplace")


def _stop(message: str) -> NoReturn:
    print(f"autobackbone: {' '.join(message.split())}", file=sys.stderr)  # noqa: T201
    _drop_output()
    sys.exit(2)


def _drop_output() -> None:
    """Drop output that cannot be written; otherwise Python reports the error again at exit."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
