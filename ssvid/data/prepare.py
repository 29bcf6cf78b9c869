"""The command `python -m ssvid.data.prepare`: a folder of videos -> the same, fast to read."""

from ssvid.data.preprocess.prepare import prepare

if __name__ == "__main__":
    from ssvid.cli import command

    command(prepare)
