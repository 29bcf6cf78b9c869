"""The command `python -m ssvid.data.narration`: transcripts of any format -> one JSON."""

from ssvid.data.narration.convert import convert_narrations

if __name__ == "__main__":
    from ssvid.cli import command

    command(convert_narrations)
