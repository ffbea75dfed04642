"""Which architectures torch.export takes with free batch, height and width: one of every family of the tests.

Each in a process of its own, with a time limit; what is exported has to give the backbone's maps at three sizes.

    python benchmarks/dynamic_export.py
"""

import argparse
import subprocess
import sys
from pathlib import Path

import torch
from results import options, reporting
from torch.export import Dim, export

from autobackbone import create_feature_backbone

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from families import DINOV3_FAMILIES, FAMILIES

BY_NAME = {family.name: family for family in FAMILIES + DINOV3_FAMILIES}


def main() -> None:
    """Try every family, or one."""
    parser = options(__doc__)
    parser.add_argument("--seconds", type=float, default=90, help="time limit for each")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.only:
        print(attempt(args.only))
        return
    with reporting("dynamic_export", args) as report:
        table = report.table("Export with free sizes", {"architecture": "", "free sizes": ""})
        for name in list(BY_NAME)[: 2 if args.quick else None]:
            table.add(name, answer(name, args.seconds))


def answer(name: str, seconds: float) -> str:
    """Return what a process of its own says of an architecture."""
    command = [sys.executable, __file__, "--only", name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        return f"no: not done after {seconds:.0f} s"
    return done.stdout.strip() if done.returncode == 0 else f"no: {done.stderr.strip().splitlines()[-1][:80]}"


def attempt(name: str) -> str:
    """Export one, and compare at three sizes."""
    torch.set_num_threads(1)
    backbone = create_feature_backbone(name, pretrained=False, extra_kwargs=BY_NAME[name].extra_kwargs).eval()
    if backbone.input_spec.fixed_size:
        return "it has a fixed size"
    step = max(backbone.input_spec.size_divisor, 32)
    height, width = 3 * step + 1, 4 * step + 2
    free = {0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
    program = export(backbone, (torch.randn(2, 3, height, width),), dynamic_shapes=(free,)).module()
    for shape in ((1, 3, height, width), (3, 3, height + 31, width + 54), (2, 3, 2 * width, 2 * height)):
        x = torch.randn(shape)
        with torch.no_grad():
            for y, e in zip(program(x), backbone(x), strict=True):
                torch.testing.assert_close(y, e, rtol=1e-3, atol=1e-3)
    return "yes"


if __name__ == "__main__":
    main()
