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
    "roofline": [],
    "overhead": [],
    "inference": [],
    "peers": [],
    "creation": [],
    "cold_start": [],
    "discovery": [],
    "dinov3": [],
    "training": [],
    "extract": ["--images", "300", "--parts", "decoders", "rates", "resume"],
}
"""What is run by default, with which arguments."""
CUDA = ("roofline", "overhead", "inference", "peers")


def main() -> None:
    """Run them, and say which failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    subjects = sorted(path.stem for path in HERE.glob("*.py") if "def main()" in path.read_text(encoding="utf-8"))
    parser.add_argument("subjects", nargs="*", help=f"by default: {', '.join(SETTINGS)}")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--quick", action="store_true", help="a smoke run: its figures say nothing")
    parser.add_argument("--results", type=Path, help="folder for the JSON")
    parser.add_argument("--limit", type=float, default=600, help="seconds that one may take")
    args = parser.parse_args()
    names = [Path(name).stem for name in args.subjects] or list(CUDA if args.device == "cuda" else SETTINGS)
    if unknown := [name for name in names if name not in subjects or name == Path(__file__).stem]:
        parser.error(f"no benchmarks: {', '.join(unknown)}; there are {', '.join(subjects)}")
    shared = ["--quick"] * args.quick + (["--device", "cuda"] if args.device == "cuda" else [])
    shared += ["--results", str(args.results)] if args.results else []
    start, failed = time.perf_counter(), []
    for i, name in enumerate(names, start=1):
        print(f"\n=== {i} of {len(names)}: {name}, after {time.perf_counter() - start:.0f} s\n", flush=True)
        command = [sys.executable, str(HERE / f"{name}.py"), *SETTINGS.get(name, []), *shared]
        try:
            subprocess.run(command, check=True, timeout=args.limit)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as err:
            failed.append(f"{name}: {err}")
            print(failed[-1], flush=True)
    print(f"\n=== {len(names) - len(failed)} of {len(names)} done in {time.perf_counter() - start:.0f} s", flush=True)
    if failed:
        sys.exit("\n".join(failed))


if __name__ == "__main__":
    main()
