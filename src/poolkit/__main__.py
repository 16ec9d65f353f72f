"""``python -m poolkit`` is the command ``poolkit``."""

from .cli import main

if __name__ == "__main__":
    main()
