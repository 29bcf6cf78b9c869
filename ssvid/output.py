"""Text -> standard output. A reader that has left, as `| head` does, is no error."""

import os
import sys


def print_text(text: str) -> None:
    """Print a text at once. The process ends quietly if nobody reads any more."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # Python writes what is left when it ends, and would report the same error then.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
