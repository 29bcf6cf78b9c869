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
    try:
        enter_console()
    except FileNotFoundError:
        print("error: The working folder was removed: change to another one.", file=sys.stderr)
        sys.exit(2)
    name, *argv = sys.argv[1:] or ["--help"]
    if name in ("--help", "-h", "help"):
        print_text(format_commands())
    elif name == "--version":
        print_text(f"ssvid {importlib.metadata.version('ssvid')}")
    elif name in list_names():
        from ssvid.cli import run_command

        run_command(name, argv)
    elif name.startswith("-"):
        text = f"{name} is a flag of a command: say which, as in `ssvid pretrain {name} ...`."
        print(f"error: {text} ssvid --help lists all commands.", file=sys.stderr)
        sys.exit(2)
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


def format_help(name: str) -> str:
    """What `ssvid NAME --help` prints. `name` is a key of ssvid.commands.COMMANDS."""
    from ssvid.arguments import Arguments
    from ssvid.cli import import_function, read_command_outline
    from ssvid.help_page import format_help as format_page

    function = read_command_outline(name) or import_function(name)
    return format_page(name, function, Arguments(function, name).tables, start=f"ssvid {name}")


if __name__ == "__main__":
    main()
