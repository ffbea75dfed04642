"""All benchmarks, one after another, each in a process of its own; one that fails does not stop the others.

    python benchmarks/run.py [--device cuda] [--quick] [SUBJECT ...]

On two cores all of them take less than 20 minutes, as their settings here are sized.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
SETTINGS = {
    "roofline": ["--rounds", "5"],
    "overhead": ["--blocks", "9", "--creations", "5", "--imports", "5"],
    "inference": ["--blocks", "5"],
    "quantization": ["--only", "resnet50", "convnext_tiny", "vit_small_patch16_224", "--blocks", "3", "--steps", "20"],
    "peers": ["--rounds", "5"],
    "creation": ["--runs", "1"],
    "cold_start": [],
    "discovery": [],
    "dinov3": [],
    "training": ["--steps", "9", "--processes", "1"],
    "detectors": ["--pairs", "7", "--processes", "1"],
    "extract": ["--images", "150", "--parts", "decoders", "rates", "resume"],
}
"""What is run by default, with which arguments."""
CUDA = ("roofline", "overhead", "inference", "peers")


def main() -> None:
    """Run them, and say which failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("subjects", nargs="*", help=f"by default {', '.join(SETTINGS)}; on a GPU {', '.join(CUDA)}")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--quick", action="store_true", help="a smoke run: its figures say nothing")
    parser.add_argument("--results", type=Path, help="folder for the JSON")
    parser.add_argument("--limit", type=float, default=600, help="seconds that one may take")
    args = parser.parse_args()
    names = [Path(name).stem for name in args.subjects] or list(CUDA if args.device == "cuda" else SETTINGS)
    if unknown := [name for name in names if not (HERE / f"{name}.py").is_file()]:
        parser.error(f"no benchmarks: {', '.join(unknown)}")
    shared = ["--quick"] * args.quick + (["--device", "cuda"] if args.device == "cuda" else [])
    shared += ["--results", str(args.results)] if args.results else []
    commands = {name: [f"{name}.py", *SETTINGS.get(name, []), *shared] for name in names}
    if not args.quick and not args.results:
        commands["page"] = ["page.py"]
    if failed := run(commands, args.limit):
        sys.exit("\n".join(failed))


def run(commands: dict[str, list[str]], limit: float) -> list[str]:
    """Run scripts with their arguments; return what failed."""
    start, failed = time.perf_counter(), []
    for i, (name, (script, *arguments)) in enumerate(commands.items(), start=1):
        print(f"\n=== {i} of {len(commands)}: {name}, after {time.perf_counter() - start:.0f} s\n", flush=True)
        try:
            subprocess.run([sys.executable, str(HERE / script), *arguments], check=True, timeout=limit)
        except subprocess.CalledProcessError as err:
            failed.append(f"{name} failed with exit code {err.returncode}")
        except subprocess.TimeoutExpired:
            failed.append(f"{name} was stopped after {limit:.0f} s")
    done = len(commands) - len(failed)
    print(f"\n=== {done} of {len(commands)} done in {time.perf_counter() - start:.0f} s", flush=True)
    return failed


if __name__ == "__main__":
    main()
