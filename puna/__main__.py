"""`python -m puna`, and `puna`, are the command line. Little is imported here, so that Ctrl-C is heard from the first moment."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line and exit."""
    try:
        from puna.cli.main import main as run_command_line

        run_command_line()
    except KeyboardInterrupt:  # while it was still being imported, or already ending
        sys.exit(130)


if __name__ == "__main__":
    main()
