"""`python -m puna` is the command line."""

from __future__ import annotations

from puna.cli.main import main

if __name__ == "__main__":
    main()
