"""Name the class of each test clip by sentences that hold the class's name.

Nothing is learnt from any clip or label.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from benchmarks.features.bench import Bench
from benchmarks.features.text_side import Text
from benchmarks.probes.base import Probe
from benchmarks.tasks.base import Answer, Task, mark_correct
from ssvid.errors import UserError
from ssvid.registry import tasks
from ssvid.statistics import topk
from ssvid.text.wording import check_templates, word_classes


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
        self.templates = check_templates(templates, "zero_shot")

    def answer(self, bench: Bench, source: str) -> Answer:
        assert bench.text is not None, "a task that reads :joint"
        test = bench.get_frozen(source, "test")
        texts = embed_classes(bench.data.classes, self.templates, bench.text)
        scores = bench.text.compare(test.feats, texts)
        predictions = scores.argmax(-1)
        details = {"top5": topk(scores, test.labels, 5)} if scores.shape[1] > 5 else {}
        return Answer(mark_correct(predictions, test.labels), predictions, details)

    def chance(self, bench: Bench) -> float:
        """One over all classes of the data set, also those without a test clip."""
        return 1 / len(bench.data.classes)


def embed_classes(
    classes: Sequence[str], templates: Sequence[str], text: Text
) -> Float[Tensor, "Q E"]:
    """The vectors of each class's sentences, averaged as the text side averages wordings."""
    wordings = word_classes(classes, templates)
    return text.average(torch.stack([text.embed(sentences) for sentences in wordings]))
