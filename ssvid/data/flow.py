"""The command `python -m ssvid.data.flow`: videos -> their optical flow, in files beside them."""

from ssvid.data.preprocess.flow import compute

if __name__ == "__main__":
    from ssvid.cli import command

    command(compute)
