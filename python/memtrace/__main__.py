"""``python -m memtrace`` is the program ``memtrace``, and understands memray's words."""

from ._memray_cli import main

if __name__ == "__main__":
    main()
