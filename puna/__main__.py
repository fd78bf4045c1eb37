"""The command line: `python -m puna`, or `puna`. Imports little, so that it handles Ctrl-C from the first moment."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line and exit."""
    try:
        from puna.cli.main import main as run_command_line

        run_command_line()
    except KeyboardInterrupt:  # during the imports or at exit
        sys.exit(130)


if __name__ == "__main__":
    main()
