"""Name the class of each test clip by sentences that hold the class's name: no clip and no label is learnt from."""

import re
from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from benchmarks.features.bench import Bench
from benchmarks.features.text_side import Text
from benchmarks.probes.base import Probe
from benchmarks.tasks.base import Answer, Task, right
from ssvid.errors import UserError
from ssvid.registry import tasks
from ssvid.statistics import topk


@tasks.register("zero_shot")
class ZeroShot(Task):
    kind = "named"
    joint = True
    rows = ("encoder", "random")

    def __init__(
        self,
        probe: Probe | None = None,
        *,
        templates: tuple[str, ...] = ("a video of {}.",),  # {}: the name of the class
    ) -> None:
        if probe is not None:
            raise UserError("zero_shot takes no probe: nothing is trained.")
        if not templates or any(template.count("{}") != 1 for template in templates):
            raise UserError(
                "zero_shot: each of `templates` has one {}, where the name of the class stands."
            )
        self.templates = tuple(templates)

    def answer(self, bench: Bench, source: str) -> Answer:
        assert bench.text is not None, "a task that reads :joint"
        test = bench.frozen(source, "test")
        scores = (
            bench.text.one(test.feats["joint"].float())
            @ prompts(bench.data.classes, self.templates, bench.text).T
        )
        said = scores.argmax(-1)
        more = {"top5": topk(scores, test.labels, 5)} if scores.shape[1] > 5 else {}
        return Answer(right(said, test.labels), said, more)

    def chance(self, bench: Bench) -> float:
        """One of all classes of the data set, be there test clips of it or not."""
        return 1 / len(bench.data.classes)


def prompts(classes: Sequence[str], templates: Sequence[str], text: Text) -> Float[Tensor, "Q E"]:
    """Each class's sentences, averaged; where similarity is a cosine each and the mean are of length 1."""
    each = [
        text.embed([template.replace("{}", spoken(name)) for name in classes])
        for template in templates
    ]
    return text.one(sum(each[1:], each[0]) / len(each))


def spoken(name: str) -> str:
    """`ApplyEyeMakeup`, `brush_hair` and `v_2-step` as words, in lower case: towers know words, not labels."""
    apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", name)
    return " ".join(re.split(r"[\W_]+", apart)).strip().lower() or name
