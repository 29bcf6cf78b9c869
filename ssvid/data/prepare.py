"""The command `python -m ssvid.data.prepare`: a folder of videos -> the same, fast to read."""

if __name__ == "__main__":
    from ssvid.cli import run_command

    run_command("prepare")
