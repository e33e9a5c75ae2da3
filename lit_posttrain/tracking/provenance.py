"""What a run was made with, as tags: code, packages, devices; nothing about the machine or its user."""

import subprocess
from importlib.metadata import PackageNotFoundError, version

import torch

PACKAGES = ("torch", "lightning", "transformers", "peft", "lit_posttrain")


def provenance() -> dict[str, str]:
    """Commit of the working directory (if it is in a git repository), versions, device name and count."""
    count = torch.cuda.device_count()
    name = torch.cuda.get_device_name() if count else "cpu"
    return {**_git(), **_versions(), "device.name": name, "device.count": str(count or 1)}


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[f"version.{package}"] = version(package)
        except PackageNotFoundError:
            found[f"version.{package}"] = "not installed as a package"
    return found


def _git() -> dict[str, str]:
    try:
        commit, status = (
            subprocess.run(["git", *command], capture_output=True, text=True, timeout=5, check=True).stdout
            for command in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        )
    except (OSError, subprocess.SubprocessError):
        return {}
    return {"mlflow.source.git.commit": commit.strip(), "git.dirty": str(bool(status.strip())).lower()}
