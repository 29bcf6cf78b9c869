"""A recipe of stages -> runs, one after the other.

python -m ssvid.stages RECIPE.yaml --out DIR -- FLAGS

Each stage runs `python -m ssvid.pretrain` in DIR/NAME with the recipe's `shared` flags and its own.
A path that begins with `stage:` is the folder of an earlier stage. The same command again skips the
finished stages and resumes a stopped one. FLAGS go to every stage and override the recipe.
"""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from ssvid.commands import list_start_words
from ssvid.errors import RunError, UserError, check_positive
from ssvid.files import read_json_mapping, write_json_whole, write_text_whole
from ssvid.log import log
from ssvid.recipe import load_recipe, merge_recipes

STAGE = "stage:"


def stages(
    # a file or a shipped recipe: YAML with `shared` flags, and `stages` by name in their order
    recipe: str,
    out: str,  # folder for the run folders of the stages
    *,
    processes: int = 1,  # number of processes of each stage, started by torchrun
    only: str | None = None,  # the name of the only stage to run
    # flags of pretrain for every stage; on the command line they stand after --
    flags: list[str] | None = None,
) -> dict[str, Any]:
    """Run the stages of a recipe. Each resumes where it stopped."""
    check_positive(processes=processes)
    whole = read_stages(recipe)
    names = list(whole["stages"])
    if only is not None and only not in names:
        raise UserError(f"{recipe} has no stage {only!r}: there are {', '.join(names)}.")
    # All stages are checked before the first one runs.
    configs = {name: resolve_stage(whole, name, Path(out)) for name in names}
    done: dict[str, Any] = {}
    for number, name in enumerate(names, 1):
        if only in (None, name):
            log.info(f"stage {number} of {len(names)}: {name}")
            done[name] = run_stage(name, configs[name], Path(out), processes, flags or [])
    next_steps: list[str] = []
    for result in done.values():
        next_steps = result.pop("next", [])  # those of the last stage stand at the end
    return {"out": out, "stages": done, "next": next_steps}


def read_stages(recipe: str) -> dict[str, Any]:
    """The recipe as a mapping with `shared` and `stages`. A UserError if it is something else."""
    whole = load_recipe(recipe)
    if whole.keys() - {"shared", "stages"} or not isinstance(whole.get("stages"), dict):
        raise UserError(
            f"The recipe {recipe} is no recipe of stages: it needs `stages` and may have `shared`."
        )
    for name, flags in [("shared", whole.setdefault("shared", {})), *whole["stages"].items()]:
        is_name = str(name).replace("_", "").isalnum()
        if not is_name or not isinstance(flags, dict) or "out" in flags:
            raise UserError(
                f"The recipe {recipe}: {name} should be a name of letters, digits and _ with a "
                "mapping of flags, without out."
            )
    return whole


def resolve_stage(whole: dict[str, Any], name: str, out: Path) -> dict[str, Any]:
    """The flags of one stage: the shared ones under its own, with `stage:NAME` as a path."""
    before = list(whole["stages"])[: list(whole["stages"]).index(name)]
    merged = merge_recipes(whole["shared"], whole["stages"][name])

    def resolve(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: resolve(setting) for key, setting in value.items()}
        if not isinstance(value, str) or not value.startswith(STAGE):
            return value
        if value.removeprefix(STAGE) not in before:
            raise UserError(
                f"Stage {name} asks for {value}; the stages before it are "
                f"{', '.join(before) or 'none'}."
            )
        return str(out / value.removeprefix(STAGE))

    return {key: resolve(value) for key, value in merged.items()}


def run_stage(
    name: str, config: dict[str, Any], out: Path, processes: int, flags: list[str]
) -> dict[str, Any]:
    """Run one stage as a command of its own. Its result is the last line that it prints."""
    out.mkdir(parents=True, exist_ok=True)
    file = out / f"{name}.yaml"
    check_earlier_stages(name, config, out)
    write_text_whole(file, yaml.safe_dump(config, sort_keys=False))
    words = [sys.executable]
    if processes > 1:
        words += ["-m", "torch.distributed.run", f"--nproc_per_node={processes}"]
    words += [*list_start_words("ssvid.pretrain"), "--config", str(file)]
    words += ["--out", str(out / name), *flags]
    process = subprocess.run(words, stdout=subprocess.PIPE, text=True)
    if process.returncode in (-signal.SIGINT, 130):
        raise KeyboardInterrupt
    if process.returncode:
        error = UserError if process.returncode == 2 else RunError
        raise error(
            f"Stage {name} ended with exit code {process.returncode}: the lines above say why. The "
            "same command goes on after the stages that are done."
        )
    return dict(json.loads(process.stdout.splitlines()[-1]))


def check_earlier_stages(name: str, config: dict[str, Any], out: Path) -> None:
    """Raise a UserError if an earlier stage was trained further since this stage began."""
    from ssvid.engine.checkpoint import RunFolder, flatten_config  # and torch with it: seconds

    checkpoints = {}
    for value in flatten_config(config).values():
        if isinstance(value, str) and Path(value).parent == out:
            checkpoints[Path(value).name] = RunFolder(value).describe_newest()
    file = out / f"{name}.from.json"
    begun_from = checkpoints
    if file.exists() and RunFolder(out / name).list_checkpoints():
        begun_from = read_json_mapping(file, "list of earlier stages")
    if begun_from != checkpoints:
        raise UserError(
            f"Stage {name} began with {', '.join(begun_from.values())}, and these have been "
            f"trained on since: remove {out / name} to train it anew from them."
        )
    write_json_whole(file, checkpoints)


if __name__ == "__main__":
    from ssvid.cli import run_command

    run_command("stages")
