"""The command `ssvid`: `ssvid NAME ...` runs a command, and alone it lists all of them.

`python -m ssvid` is the same.
"""

import importlib.metadata
import sys

from ssvid.commands import COMMANDS, enter_console, list_names
from ssvid.near_names import list_near_names
from ssvid.output import print_text


def main() -> None:
    """Run the command that the first word names."""
    enter_console()
    name, *argv = sys.argv[1:] or ["--help"]
    if name in ("--help", "-h", "help"):
        print_text(format_commands())
    elif name == "--version":
        print_text(f"ssvid {importlib.metadata.version('ssvid')}")
    elif name in list_names():
        from ssvid.cli import run_command

        run_command(name, argv)
    else:
        near = list_near_names(name, list_names()) or list_names()
        text = f"There is no command {name}; near: {', '.join(near)}. ssvid --help lists all."
        print(f"error: {text}", file=sys.stderr)
        sys.exit(2)


def format_commands() -> str:
    """The list of all commands, in groups. Nothing is imported for it."""
    width = max(map(len, list_names())) + 4
    lines = ["usage: ssvid COMMAND ...", "", "`ssvid COMMAND --help` explains a command."]
    for group in dict.fromkeys(entry.group for entry in COMMANDS.values()):
        lines += ["", f"{group}:"]
        for name in list_names(group):
            lines.append(f"  {name:{width}}{COMMANDS[name].purpose}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
