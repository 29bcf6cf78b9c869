"""a recipe of stages -> runs, one after the other: `python -m ssvid.stages RECIPE.yaml --out DIR -- FLAGS`.

Each stage is `python -m ssvid.pretrain` in DIR/NAME, with what all share (`shared`) and its own. A path that begins
with `stage:` is the folder of an earlier stage. Stages that are done are passed over and one that was stopped goes on,
so the same command again finishes what is left. FLAGS go to every stage, and later flags win.
"""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from ssvid.engine.checkpoint import RunFolder, flat
from ssvid.errors import RunError, UserError, positive
from ssvid.files import write_json_whole, write_text_whole
from ssvid.log import log
from ssvid.recipe import load_recipe, merge_recipes

STAGE = "stage:"


def stages(
    recipe: str,  # YAML: shared, and stages by name in their order
    out: str,  # folder that holds a run folder for each stage
    *,
    processes: int = 1,  # of each stage, by torchrun
    only: str | None = None,  # this stage alone
    flags: list[str]
    | None = None,  # of ssvid.pretrain, for every stage; on the command line after --
) -> dict[str, Any]:
    """Run the stages of a recipe, each from where it stopped."""
    positive(processes=processes)
    whole = read(recipe)
    names = list(whole["stages"])
    if only is not None and only not in names:
        raise UserError(f"{recipe} has no stage {only!r}: there are {', '.join(names)}.")
    configs = {
        name: stage(whole, name, Path(out)) for name in names
    }  # all are looked at before the first is run
    done: dict[str, Any] = {}
    for number, name in enumerate(names, 1):
        if only in (None, name):
            log.info(f"stage {number} of {len(names)}: {name}")
            done[name] = run(name, configs[name], Path(out), processes, flags or [])
    return {"out": out, "stages": done}


def read(recipe: str) -> dict[str, Any]:
    whole = load_recipe(recipe)
    if whole.keys() - {"shared", "stages"} or not isinstance(whole.get("stages"), dict):
        raise UserError(
            f"The recipe {recipe} is no recipe of stages: it has `shared` (flags of all) and `stages`."
        )
    for name, own in [("shared", whole.setdefault("shared", {})), *whole["stages"].items()]:
        if not isinstance(own, dict) or "out" in own or not str(name).replace("_", "").isalnum():
            raise UserError(
                f"The recipe {recipe}: {name} is a name of letters and numbers with flags other than out."
            )
    return whole


def stage(whole: dict[str, Any], name: str, out: Path) -> dict[str, Any]:
    """The flags of one stage: what all share, and over it its own, part by part."""
    before = list(whole["stages"])[: list(whole["stages"]).index(name)]
    merged = merge_recipes(whole["shared"], whole["stages"][name])

    def placed(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: placed(part) for key, part in value.items()}
        if not isinstance(value, str) or not value.startswith(STAGE):
            return value
        if value.removeprefix(STAGE) not in before:
            raise UserError(
                f"Stage {name} asks for {value}, and before it come {', '.join(before) or 'none'}."
            )
        return str(out / value.removeprefix(STAGE))

    return {key: placed(value) for key, value in merged.items()}


def run(
    name: str, config: dict[str, Any], out: Path, processes: int, flags: list[str]
) -> dict[str, Any]:
    out.mkdir(parents=True, exist_ok=True)
    file = out / f"{name}.yaml"
    began_with(name, config, out)
    write_text_whole(file, yaml.safe_dump(config, sort_keys=False))
    how = ["-m", "torch.distributed.run", f"--nproc_per_node={processes}"] if processes > 1 else []
    words = [
        sys.executable,
        *how,
        "-m",
        "ssvid.pretrain",
        "--config",
        str(file),
        "--out",
        str(out / name),
        *flags,
    ]
    ended = subprocess.run(words, stdout=subprocess.PIPE, text=True)
    if ended.returncode in (-signal.SIGINT, 130):
        raise KeyboardInterrupt
    if ended.returncode:
        error = UserError if ended.returncode == 2 else RunError
        raise error(
            f"Stage {name} ended with exit code {ended.returncode}: the lines above say why. Stages that are "
            "done are kept: the same command goes on."
        )
    return dict(json.loads(ended.stdout.splitlines()[-1]))


def began_with(name: str, config: dict[str, Any], out: Path) -> None:
    """Refuse to go on with a stage whose earlier ones were trained on since it began."""
    earlier = {
        Path(v).name: Path(v)
        for v in flat(config).values()
        if isinstance(v, str) and Path(v).parent == out
    }
    stand = {stage: RunFolder(path).last_good() for stage, path in earlier.items()}
    file = out / f"{name}.from.json"
    known = (
        json.loads(file.read_text()) if file.exists() and RunFolder(out / name).whole() else stand
    )
    if known != stand:
        raise UserError(
            f"Stage {name} began with {', '.join(known.values())}, and these have been trained on since: remove "
            f"{out / name} to train it anew from them."
        )
    write_json_whole(file, stand)


if __name__ == "__main__":
    from ssvid.cli import command

    given = sys.argv[1:]
    at = given.index("--") if "--" in given else len(given)
    extra = ["--flags", json.dumps(given[at + 1 :])] if given[at + 1 :] else []
    command(stages, "recipe", argv=[*given[:at], *extra])
