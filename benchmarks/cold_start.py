"""Time from the start of a process to the first feature maps, against raw timm.

Each side runs in processes of its own, in turn, the order alternating: imports, creation of a ResNet-18 without
weights, and a forward pass of one 224x224 image. Within a process the imports are timed one after another (PyTorch,
timm, ours), so that each counts only what it adds. The whole is the wall time of the process, the interpreter's start
and end included. Medians; a first pair, which fills the cache of files, does not count. The last column is the median
of the differences between neighboring processes.

    python benchmarks/cold_start.py
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

# Bytecode is kept, as an installation keeps it: the first pair compiles what is not compiled yet.
_ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
_MEASURED = """
import json, time
seconds = {{}}
def timed(phase, start):
    seconds[phase] = time.perf_counter() - start
start = time.perf_counter()
import torch
timed("import torch", start)
start = time.perf_counter()
import timm
timed("import timm", start)
start = time.perf_counter()
{imports}
timed("import autobackbone", start)
start = time.perf_counter()
model = {create}.eval()
timed("creation", start)
start = time.perf_counter()
with torch.inference_mode():
    model(torch.rand(1, 3, 224, 224))
timed("forward", start)
print(json.dumps(seconds))
"""
_SIDES = {
    "autobackbone": (
        "from autobackbone import create_feature_backbone",
        "create_feature_backbone({name!r}, pretrained=False)",
    ),
    "raw timm": ("", "timm.create_model({name!r}, features_only=True)"),
}


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="resnet18", help="a timm architecture")
    parser.add_argument("--runs", type=int, default=9, help="processes of each")
    args = parser.parse_args()
    runs: dict[str, list[dict[str, float]]] = {side: [] for side in _SIDES}
    for i in range(args.runs + 1):
        for side in _SIDES if i % 2 else reversed(_SIDES):
            imports, create = _SIDES[side]
            runs[side].append(measure(_MEASURED.format(imports=imports, create=create.format(name=args.model))))
    ours, raw = (each[1:] for each in runs.values())
    print(f"| {args.model} | autobackbone, s | raw timm, s | ours - raw, ms |")
    print("|---|---|---|---|")
    for phase in ours[0]:
        medians = [statistics.median(run[phase] for run in side) for side in (ours, raw)]
        more = statistics.median(a[phase] - b[phase] for a, b in zip(ours, raw, strict=True))
        print(f"| {phase} | {medians[0]:.3f} | {medians[1]:.3f} | {1e3 * more:+.0f} |")


def measure(code: str) -> dict[str, float]:
    """Return the seconds of each phase of a new process, and of the whole process."""
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=_ENVIRONMENT)
    whole = time.perf_counter() - start
    return json.loads(done.stdout.splitlines()[-1]) | {"whole process": whole}


if __name__ == "__main__":
    main()
