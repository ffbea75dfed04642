"""Time from the start of a process to the first feature maps, against raw timm.

Each side runs in processes of its own, in turn: imports, creation of a ResNet-18 without weights, and a forward pass of
one 224x224 image. Within a process the imports are timed one after another (PyTorch, timm, ours), so that each counts
only what it adds. The whole is the wall time of the process, the interpreter's start and end included. A first pair,
which fills the cache of files, does not count. The last column is of the differences between neighboring processes.

    python benchmarks/cold_start.py
"""

import json
import os
import subprocess
import sys
import time

from results import options, reporting
from timing import Spread, in_turn

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
    """Measure, print, and write."""
    parser = options(__doc__)
    parser.add_argument("--model", default="resnet18", help="a timm architecture")
    parser.add_argument("--runs", type=int, default=7, help="processes of each")
    args = parser.parse_args()
    codes = {
        side: _MEASURED.format(imports=imports, create=create.format(name=args.model))
        for side, (imports, create) in _SIDES.items()
    }
    with reporting("cold_start", args) as report:
        sides = {side: lambda code=code: phases(code) for side, code in codes.items()}
        ours, raw = (runs[1:] for runs in in_turn(sides, 1 + (1 if args.quick else args.runs)).values())
        columns = {args.model: "", "autobackbone, s": ".3f", "raw timm, s": ".3f", "ours - raw, ms": "+.0f"}
        table = report.table("From the start of a process to the first maps", columns)
        for phase in ours[0]:
            more = [1e3 * (a[phase] - b[phase]) for a, b in zip(ours, raw, strict=True)]
            table.add(phase, *(Spread.of([run[phase] for run in runs]) for runs in (ours, raw)), Spread.of(more))


def phases(code: str) -> dict[str, float]:
    """Return the seconds of each phase of a new process, and of the whole process."""
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True, env=_ENVIRONMENT)
    whole = time.perf_counter() - start
    return json.loads(done.stdout.splitlines()[-1]) | {"whole process": whole}


if __name__ == "__main__":
    main()
