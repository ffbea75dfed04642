"""The command line: list, info, compare, features, export, catalog build."""

import logging
import sys

import click

from autobackbone.cli import discovery, models
from autobackbone.errors import BackboneError


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="autobackbone", message="%(prog)s %(version)s")
def app() -> None:
    """Vision backbones, one contract."""


@app.group()
def catalog() -> None:
    """The catalogue of facts about backbones."""  # noqa: D401


for command in (discovery.list_command, discovery.info, discovery.compare, models.features, models.export):
    app.add_command(command)
catalog.add_command(discovery.build)


def main() -> None:
    """Run the command line; a user's mistake is one line on stderr and exit status 2."""
    logging.basicConfig(format="autobackbone: %(message)s")
    try:
        status = app.main(sys.argv[1:] or ["--help"], prog_name="autobackbone", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as err:
        print(err.format_message())  # noqa: T201
        sys.exit(0)
    except click.ClickException as err:
        print(f"autobackbone: {err.format_message()} See --help.", file=sys.stderr)  # noqa: T201
        sys.exit(2)
    except (BackboneError, OSError) as err:
        print(f"autobackbone: {' '.join(str(err).split())}", file=sys.stderr)  # noqa: T201
        sys.exit(2)
    except click.Abort:
        sys.exit(130)
    sys.exit(status if isinstance(status, int) else 0)
