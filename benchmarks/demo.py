"""`make demo`: synthetic videos -> pretraining -> probe and controls -> report.

It calls the same commands that users run.
"""

import shlex
from typing import Any

from benchmarks.features.sources import CONTROLS
from benchmarks.linear_probe import linear_probe
from ssvid.cli import parse
from ssvid.commands import phrase_command
from ssvid.engine.features import cpu_seconds
from ssvid.log import log
from ssvid.pretrain import pretrain

RECIPE = "demo"  # the shipped one, from any folder
SMALL = ["--steps", "30", "--data.train", "96", "--data.val", "48", "--data.test", "48"]


def demo(
    out: str = "runs/demo",  # the run's folder; the report lies below it
    *,
    seed: int = 0,  # of weights, data and masks
    small: bool = False,  # a short run that only shows that everything works
    cache: str = ".cache/ssvid",  # folder of the videos and the frozen features
) -> dict[str, Any]:
    """The whole path on synthetic motion. With `small` the numbers mean nothing."""
    began = cpu_seconds()
    data = ["--data", "synthetic", "--data.root", f"{cache}/synthetic"]
    argv = ["--config", RECIPE, *data, "--out", out, "--seed", str(seed)]
    argv += SMALL * small
    log.info(f"[1/2] {phrase_command('pretrain')} {shlex.join(argv)}")
    pretrain(**parse(pretrain, argv))
    argv = ["--encoder", out, *data, "--out", f"{out}/probe", "--cache", cache]
    argv += SMALL[2:] * small
    log.info(f"[2/2] {phrase_command('probe')} {shlex.join(argv)}")
    probed = linear_probe(**parse(linear_probe, argv))
    (result,) = probed["results"]
    return {
        "pretrained": result["top1"],
        **{name: result["controls"][name] for name in CONTROLS},
        "chance": result["chance"],
        "interval": result["interval"],
        "cpu_minutes": round((cpu_seconds() - began) / 60, 2),
        "report": probed["report"],
        "next": probed["next"],
    }


if __name__ == "__main__":
    from ssvid.cli import run_command

    run_command("demo")
