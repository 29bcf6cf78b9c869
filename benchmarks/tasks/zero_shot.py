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
from benchmarks.tasks.base import Answer, Task, average_probabilities, mark_correct
from ssvid.errors import UserError
from ssvid.registry import tasks
from ssvid.statistics import topk
from ssvid.text.wording import check_templates, read_templates, word_classes


@tasks.register("zero_shot")
class ZeroShot(Task):
    kind = "named"
    joint = True
    rows = ("encoder", "random")

    def __init__(
        self,
        probe: Probe | None = None,
        *,
        # sentences in which {} stands for the name of the class, or a file with one a line; their
        # vectors are averaged. X-CLIP has the bare name: ["{}"]
        templates: tuple[str, ...] | str = ("a video of {}.",),
    ) -> None:
        if probe is not None:
            raise UserError("zero_shot takes no probe: nothing is trained.")
        if isinstance(templates, str):
            self.templates = read_templates(templates, "zero_shot")
        else:
            self.templates = check_templates(templates, "zero_shot")

    def answer(self, bench: Bench, source: str) -> Answer:
        """Where scores are averaged over views, their softmax is, as in X-CLIP's 4 x 3 views."""
        assert bench.text is not None, "a task that reads :joint"
        units, video_of_view = bench.index_videos("test")
        views = bench.get_frozen_views(source, "test")
        texts = embed_classes(bench.data.classes, self.templates, bench.text)
        scores, labels = bench.text.compare(views.feats, texts), bench.labels[units]
        if len(video_of_view) > len(units):
            scores = average_probabilities(scores, len(units), video_of_view)
        predictions = scores.argmax(-1)
        details = {"top5": topk(scores, labels, 5)} if scores.shape[1] > 5 else {}
        return Answer(mark_correct(predictions, labels), predictions, details)

    def chance(self, bench: Bench) -> float:
        """One over all classes of the data set, also those without a test clip."""
        return 1 / len(bench.data.classes)


def embed_classes(
    classes: Sequence[str], templates: Sequence[str], text: Text
) -> Float[Tensor, "Q E"]:
    """The vectors of each class's sentences, averaged as the text side averages wordings."""
    wordings = word_classes(classes, templates)
    return text.average(torch.stack([text.embed(sentences) for sentences in wordings]))
