"""The command `python -m ssvid.data.flow`: videos -> their optical flow, in files beside them."""

if __name__ == "__main__":
    from ssvid.cli import run_command

    run_command("flow")
