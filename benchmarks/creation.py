"""Creation with weights, against timm's and transformers' own: whole processes, on files that the script makes.

Each process imports its libraries (ours the others' as well), then creates the model with the weights of a safetensors
file and computes a first feature map of one 224x224 image. What is measured: seconds to create, seconds to the first
map from the start of the creation, and the peak of memory in use by then, all of the libraries included. Ours and
theirs in turn; a first pair, which fills the cache of files, does not count.

    python benchmarks/creation.py [MODEL ...]
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from results import options, reporting
from timing import Spread, in_turn, ratio

_MEASURED = """
import json, sys, time
import torch
{imports}
image = torch.rand(1, 3, 224, 224)
with torch.no_grad():
    start = time.perf_counter()
    model = {create}.eval()
    created = time.perf_counter() - start
    {first}
    mapped = time.perf_counter() - start
peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps([created, mapped, peak / 1024]))
"""
_OURS = ("from autobackbone import create_feature_backbone", "create_feature_backbone({name!r}, weights={path!r})")
_TIMM = ("import timm", "timm.create_model({name!r}, pretrained=True, pretrained_cfg_overlay=dict(file={path!r}))")
_TRANSFORMERS = (
    "from transformers import AutoModel, DINOv3ConvNextModel, DINOv3ViTModel",  # else it imports them when it creates
    "AutoModel.from_pretrained({folder!r})",
)

_MAKE_TIMM = """
import timm
from safetensors.torch import save_file
save_file(timm.create_model({name!r}).state_dict(), {path!r})
"""
_MAKE_DINOV3 = """
from transformers import AutoModel
from autobackbone import FeatureBackboneConfig
from autobackbone.sources.choose import make_plan
AutoModel.from_config(make_plan(FeatureBackboneConfig({name!r})).hf_config).save_pretrained({folder!r})
"""
_CASES = [
    ("vit_large_patch16_224", _MAKE_TIMM, _TIMM, "model.forward_features(image)"),
    ("convnext_large", _MAKE_TIMM, _TIMM, "model.forward_features(image)"),
    ("resnet50", _MAKE_TIMM, _TIMM, "model.forward_features(image)"),
    ("dinov3_vitl16", _MAKE_DINOV3, _TRANSFORMERS, "model(image)"),
    ("dinov3_convnext_large", _MAKE_DINOV3, _TRANSFORMERS, "model(image)"),
]


_COLUMNS = {
    "model": "",
    "against": "",
    "create, times faster": ".1f",
    "first map, times faster": ".1f",
    "peak memory, ours / theirs": ".2f",
    "peak memory, MiB": ".0f",
    "create, s": ".3f",
}


def main() -> None:
    """Measure, print, and write."""
    parser = options(__doc__)
    parser.add_argument("models", nargs="*", help="of the table; all by default")
    parser.add_argument("--runs", type=int, default=3, help="processes of each")
    args = parser.parse_args()
    known = {case[0]: case for case in _CASES}
    if unknown := set(args.models) - set(known):
        parser.error(f"no models of the table: {', '.join(sorted(unknown))}; it has {', '.join(known)}")
    with reporting("creation", args) as report:
        table = report.table("With weights", _COLUMNS)
        for name in args.models or list(known)[: 1 if args.quick else None]:
            _, make, theirs, first = known[name]
            with tempfile.TemporaryDirectory() as folder:
                place = {"name": name, "folder": folder, "path": str(Path(folder, "model.safetensors"))}
                run(make.format(**place))
                sides = {
                    "ours": measurement(f"{theirs[0]}\n{_OURS[0]}", _OURS[1], "model(image)", place),
                    "theirs": measurement(*theirs, first, place),
                }
                runs = in_turn(sides, 1 + (1 if args.quick else args.runs))
            ours, raw = ([*zip(*side[1:], strict=True)] for side in runs.values())
            table.add(
                name,
                theirs[0].split()[1],
                ratio(raw[0], ours[0]),
                ratio(raw[1], ours[1]),
                ratio(ours[2], raw[2]),
                Spread.of(ours[2]),
                Spread.of(ours[0]),
            )


def measurement(imports: str, create: str, first: str, place: dict[str, str]) -> Callable[[], list[float]]:
    """Return what runs a new process: seconds to create, seconds to the first map, and the peak of memory in MiB."""
    code = _MEASURED.format(imports=imports, create=create.format(**place), first=first)
    return lambda: [float(value) for value in json.loads(run(code).splitlines()[-1])]


def run(code: str) -> str:
    """Run code in a new process; return what it prints."""
    return subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True).stdout


if __name__ == "__main__":
    main()
