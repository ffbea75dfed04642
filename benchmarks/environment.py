"""What a figure depends on: the machine, and the versions of what was measured."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

LIBRARIES = (
    "autobackbone",
    "torch",
    "torchvision",
    "timm",
    "transformers",
    "numpy",
    "pillow",
    "torchao",
    "onnxruntime",
    "segmentation-models-pytorch",
    "autotimm",
    "lightly-train",
)
VARIABLES = ("OMP_", "MKL_", "KMP_", "ONEDNN_", "DNNL_")
FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "asimd", "bf16", "i8mm")


def describe(device: str) -> dict[str, Any]:
    """Return the environment: text, numbers, lists and dicts of these."""
    facts = {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": {name: found for name in LIBRARIES if (found := installed(name)) is not None},
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "flags": _flags(),
        "variables": {name: value for name, value in os.environ.items() if name.startswith(VARIABLES)},
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
    }
    return facts | (_gpu() if device == "cuda" else {})


def installed(name: str) -> str | None:
    """Return the version of an installed library, torch's with how it was built."""
    try:
        return torch.__version__ if name == "torch" else version(name)
    except PackageNotFoundError:
        return None


def _cpuinfo(*keys: str) -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() in keys), "")


def _cpu() -> str:
    return _cpuinfo("model name", "Model") or platform.processor() or "unknown"


def _flags() -> list[str]:
    found = set(_cpuinfo("flags", "Features").split())
    return [flag for flag in FLAGS if flag in found]


def _gpu() -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(0)
    driver = Path("/proc/driver/nvidia/version")
    words = driver.read_text(encoding="utf-8").splitlines()[0].split() if driver.is_file() else []
    numbers = [word for word in words if word[:1].isdigit() and "." in word]
    return {
        "gpu": properties.name,
        "gpu_memory_gib": round(properties.total_memory / 2**30, 1),
        "driver": numbers[0] if numbers else "unknown",
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "tf32": {"convolutions": torch.backends.cudnn.allow_tf32, "matmul": torch.backends.cuda.matmul.allow_tf32},
    }
