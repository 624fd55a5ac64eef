"""Builds wheels and source distributions, for `pip` and `build`.

A wheel holds the extension module, which maturin builds, and two more things that cargo builds before it: the program
`memtrace` and the recorder, the library that lives in recorded programs.

Environment variables, for tests:
    MEMTRACE_BIN: A program that was built before, with its library beside it.
    MEMTRACE_WHEEL_PROFILE: The cargo profile of the extension module.
"""

import io
import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Any, Dict, List, Optional

import maturin

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = ROOT / "python/data/scripts/memtrace"
LIBRARY = ROOT / "python/memtrace/libmemtrace_preload.so"
#: What a source distribution needs, to build and to be read.
SOURCES = [
    "CHANGELOG.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE-APACHE",
    "LICENSE-MIT",
    "README.md",
    "docs",
    "format",
    "preload",
    "pyproject.toml",
    "python",
    "src",
]
#: What lies among them and is made anew by each build.
PRODUCTS = ("__pycache__", "*.so", "*.pyc", "data", "target", "*.egg-info")

Settings = Optional[Dict[str, Any]]

get_requires_for_build_wheel = maturin.get_requires_for_build_wheel


def get_requires_for_build_sdist(config_settings: Settings = None) -> List[str]:
    return []


def prepare_metadata_for_build_wheel(metadata_directory: str, config_settings: Settings = None) -> str:
    # maturin wants its data folder to exist, whatever is asked for.
    PROGRAM.parent.mkdir(parents=True, exist_ok=True)
    return str(maturin.prepare_metadata_for_build_wheel(metadata_directory, config_settings))


def build_wheel(wheel_directory: str, config_settings: Settings = None, metadata_directory: Optional[str] = None) -> str:
    place_products()
    profile = os.environ.get("MEMTRACE_WHEEL_PROFILE")
    if profile:
        os.environ["MATURIN_PEP517_ARGS"] = f"--profile {profile}"
    return str(maturin.build_wheel(wheel_directory, config_settings, metadata_directory))


def build_sdist(sdist_directory: str, config_settings: Settings = None) -> str:
    """Everything that cargo needs: maturin leaves out the recorder, which no crate depends on."""
    with tempfile.TemporaryDirectory() as folder:
        info = Path(folder, prepare_metadata_for_build_wheel(folder, config_settings))
        metadata = (info / "METADATA").read_bytes()
        stem = info.name[: -len(".dist-info")]
    name = f"{stem}.tar.gz"
    ignored = shutil.ignore_patterns(*PRODUCTS)

    def keep(entry: tarfile.TarInfo) -> Optional[tarfile.TarInfo]:
        folder, _, last = entry.name.rpartition("/")
        entry.uid = entry.gid = 0
        entry.uname = entry.gname = ""
        return None if ignored(folder, [last]) else entry

    with tarfile.open(Path(sdist_directory, name), "w:gz", format=tarfile.PAX_FORMAT) as archive:
        for source in SOURCES:
            archive.add(ROOT / source, f"{stem}/{source}", filter=keep)
        entry = tarfile.TarInfo(f"{stem}/PKG-INFO")
        entry.size = len(metadata)
        archive.addfile(entry, io.BytesIO(metadata))
    return name


def place_products() -> None:
    """Puts the program and the recorder where maturin takes them from."""
    PROGRAM.parent.mkdir(parents=True, exist_ok=True)
    built = os.environ.get("MEMTRACE_BIN")
    if built:
        program = Path(built)
    else:
        cargo("build", "--release", "--locked", "--package", "memtrace", "--bin", "memtrace")
        strip = ["--", "-C", "strip=debuginfo"]
        cargo("rustc", "--release", "--locked", "--package", "memtrace-preload", "--crate-type", "cdylib", *strip)
        program = target_folder() / "release/memtrace"
    shutil.copy(program, PROGRAM)
    shutil.copy(program.parent / "libmemtrace_preload.so", LIBRARY)


def cargo(*arguments: str) -> None:
    subprocess.run(["cargo", *arguments], cwd=ROOT, check=True)


def target_folder() -> Path:
    return Path(ROOT, os.environ.get("CARGO_TARGET_DIR", "target"))
