"""The command `python -m ssvid.data.narration`: transcripts of any format -> one JSON."""

if __name__ == "__main__":
    from ssvid.cli import run_command

    run_command("narration")
