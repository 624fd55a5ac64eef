"""The version of the package, from its metadata."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__: str = version("memtrace-profiler")
except PackageNotFoundError:
    # Beside its sources, and not installed.
    __version__ = "0.0.0"
