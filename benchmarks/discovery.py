"""Finding a backbone: whole processes against timm's own list, and calls in a process that is warm.

python benchmarks/discovery.py
"""

import shutil
import subprocess
import sys
from pathlib import Path

from results import Report, options, reporting
from timing import Spread, in_turn, ratio, seconds

from autobackbone import describe_backbone, list_backbones
from autobackbone.catalog import store as catalog

THEIRS = [sys.executable, "-c", "import timm; print(len(timm.list_models('*resnet*')))"]


def main() -> None:
    """Measure, print, and write."""
    parser = options(__doc__)
    parser.add_argument("--rounds", type=int, default=9, help="processes of each")
    parser.add_argument("--calls", type=int, default=51, help="calls of each")
    args = parser.parse_args()
    if args.quick:
        args.rounds, args.calls = 1, 3
    with reporting("discovery", args) as report:
        processes(report, args.rounds)
        calls(report, args.calls)
        table = report.table("Catalog", {"": "", "kB": ".0f"})
        table.add("the file", catalog.FILE.stat().st_size / 1e3)


def processes(report: Report, rounds: int) -> None:
    """Measure processes."""
    script = shutil.which("autobackbone", path=Path(sys.executable).parent)
    if script is None:
        sys.exit("the command autobackbone is not installed beside this Python")
    ours = {
        "autobackbone list '*resnet*'": [script, "list", "*resnet*"],
        "autobackbone info resnet50": [script, "info", "resnet50"],
        "autobackbone info resnt50": [script, "info", "resnt50"],  # which is told the nearest names
    }
    watches = {
        name: lambda command=command: seconds(lambda: subprocess.run(command, capture_output=True, check=False))
        for name, command in ({"timm": THEIRS} | ours).items()
    }
    in_turn(watches, 1)  # fills the cache of files
    times = in_turn(watches, rounds)
    columns = {"process": "", "times faster": ".1f", "ours, s": ".3f", "timm.list_models('*resnet*'), s": ".3f"}
    table = report.table("Processes", columns)
    for name in ours:
        table.add(f"`{name}`", ratio(times["timm"], times[name]), Spread.of(times[name]), Spread.of(times["timm"]))


def calls(report: Report, count: int) -> None:
    """Measure calls in a process that is warm."""
    filters = {"strides": 4, "any_size": True, "max_params": 30e6, "license": ("apache-2.0", "mit")}
    watches = {
        "list_backbones()": lambda: seconds(list_backbones),
        "list_backbones('*resnet*')": lambda: seconds(lambda: list_backbones("*resnet*")),
        "list_backbones('*resnet*', pretrained_only=True)": lambda: seconds(
            lambda: list_backbones("*resnet*", pretrained_only=True)
        ),
        "list_backbones(...), four filters": lambda: seconds(lambda: list_backbones(**filters)),
        "describe_backbone('resnet50')": lambda: seconds(lambda: describe_backbone("resnet50")),
    }
    in_turn(watches, 1)
    table = report.table("Calls", {"call, warm": "", "ms": ".2f"})
    for name, times in in_turn(watches, count).items():
        table.add(f"`{name}`", Spread.of([1e3 * each for each in times]))


if __name__ == "__main__":
    main()
