"""Finding a backbone: whole processes against timm's own list, and calls in a process that is warm.

python benchmarks/discovery.py
"""

import shutil
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from autobackbone import describe_backbone, list_backbones
from autobackbone.catalog import store as catalog

ROUNDS = 9
THEIRS = [sys.executable, "-c", "import timm; print(len(timm.list_models('*resnet*')))"]


def main() -> None:
    """Print the table of processes, and what calls take."""
    script = shutil.which("autobackbone", path=Path(sys.executable).parent)
    if script is None:
        sys.exit("the command autobackbone is not installed beside this Python")
    ours = {
        "list '*resnet*'": [script, "list", "*resnet*"],
        "info resnet50": [script, "info", "resnet50"],
        "info resnt50": [script, "info", "resnt50"],
    }
    commands = {"": THEIRS} | ours
    times: dict[str, list[float]] = {name: [] for name in commands}
    for name in list(commands) + list(commands) * ROUNDS:  # in turn, the first round to warm the file cache
        start = time.perf_counter()
        subprocess.run(commands[name], capture_output=True, check=False)
        times[name].append(time.perf_counter() - start)
    taken = {name: median(values[1:]) for name, values in times.items()}
    print("| process | times faster than `timm.list_models('*resnet*')` | |\n|---|---|---|")
    for name in ours:
        print(f"| `autobackbone {name}` | {taken[''] / taken[name]:.1f} | {taken[name]:.3f} s / {taken['']:.3f} s |")

    print("\n| call, warm | |\n|---|---|")
    filters = {"strides": 4, "any_size": True, "max_params": 30e6, "license": ("apache-2.0", "mit")}
    calls = {
        "list_backbones()": list_backbones,
        "list_backbones('*resnet*')": lambda: list_backbones("*resnet*"),
        "list_backbones('*resnet*', pretrained_only=True)": lambda: list_backbones("*resnet*", pretrained_only=True),
        "list_backbones(...), four filters": lambda: list_backbones(**filters),
        "describe_backbone('resnet50')": lambda: describe_backbone("resnet50"),
    }
    for name, call in calls.items():
        call()
        values = []
        for _ in range(51):
            start = time.perf_counter()
            call()
            values.append(time.perf_counter() - start)
        print(f"| `{name}` | {median(values) * 1e3:.2f} ms |")
    print(f"\ncatalog: {catalog.FILE.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
