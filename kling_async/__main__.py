"""The command ``kling-async``; also ``python -m kling_async``."""

import signal
import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line and exit with its code."""
    try:
        from kling_async.cli.app import run
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in ("cyclopts", "dotenv", "rich"):
            raise
        sys.stderr.write('the command line needs its extra: install "kling-async[cli]"\n')
        sys.exit(2)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C, also where no loop runs
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
