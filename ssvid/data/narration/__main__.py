"""The command `python -m ssvid.data.narration`: narrations of any form -> one JSON, in seconds."""

from ssvid.data.narration.readers import narrations

if __name__ == "__main__":
    from ssvid.cli import command

    command(narrations)
