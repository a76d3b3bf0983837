"""Where a measurement was taken: device, threads, number format, versions, commit."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from prune_bert.profiling.running import AUTOCAST_DTYPES

PACKAGES = ("torch", "transformers", "accelerate", "datasets", "evaluate")


def environment(
    device: torch.device | str | None = None,
    mixed_precision: str = "no",
    *,
    dtype: torch.dtype = torch.float32,
) -> dict[str, Any]:
    """Describe the machine and the software as JSON-able data.

    ``dtype`` is the weights' own; under autocast the products run in another, and both are said.
    """
    place = torch.device(device) if device is not None else torch.device("cpu")
    return {
        "device": device_name(place),
        "device_type": place.type,
        "threads": torch.get_num_threads(),
        "cpu_count": os.cpu_count(),
        "dtype": _dtype_text(dtype, mixed_precision),
        "mixed_precision": mixed_precision,
        "versions": _versions(),
        "platform": platform.platform(),
        "git_commit": git_commit(),
    }


def device_name(device: torch.device) -> str:
    """Return the name by which people know the device: the GPU's, or the CPU's model."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return str(device)
    return _cpu_model() or platform.processor() or platform.machine() or "unknown CPU"


def git_commit() -> str | None:
    """Return the commit of the checkout that this package runs from, ``-dirty`` with changes, or None.

    Never fails: no git, no checkout, or a package installed inside somebody else's checkout all give None.
    """
    package = Path(__file__).resolve().parents[1]
    top = _git(package, "rev-parse", "--show-toplevel")
    if not top or Path(top).resolve() != package.parent:
        return None
    commit = _git(package, "rev-parse", "--verify", "HEAD")
    if not commit:
        return None
    return f"{commit}-dirty" if _git(package, "status", "--porcelain", "--untracked-files=no") else commit


def _git(folder: Path, *arguments: str) -> str | None:
    """Return what one git command prints, or None where it cannot be run or fails."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None
    return done.stdout.strip()


def _cpu_model() -> str | None:
    """Return the CPU's model from Linux's own table, or None elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        return None
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next((name for name in names if name), None)


def _dtype_text(dtype: torch.dtype, mixed_precision: str) -> str:
    """Say in which number format the weights are and the products run."""
    own = str(dtype).removeprefix("torch.")
    cast = AUTOCAST_DTYPES.get(mixed_precision)
    return own if cast is None else f"{own}, {str(cast).removeprefix('torch.')} by autocast"


def _versions() -> dict[str, str | None]:
    """Return the versions of Python, of this package and of what it stands on, without importing those."""
    versions: dict[str, str | None] = {
        "python": platform.python_version(),
        "prune_bert": getattr(sys.modules["prune_bert"], "__version__", None),
    }
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    return versions
