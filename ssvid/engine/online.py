"""objective so far -> probe scores on a few labelled clips: `--probe_every N`. Nothing here changes a weight.

A sign of progress, not a result: a fixed handful of train and val clips, the exported encoders' pooled features, no
controls. Half of the val clips chooses the probe's setting and the other half is read. Test is never read.
"""

import torch
from torch import Tensor

from ssvid import registry
from ssvid.data.clips import Clips
from ssvid.data.loader import eval_loader
from ssvid.data.manifest import Manifest
from ssvid.encoder import evaluating
from ssvid.errors import UserError
from ssvid.objective import Objective
from ssvid.randomness import permutation
from ssvid.shapes import Frozen, Views

TRAIN, VAL = 256, 256  # clips at most
PROBES = ("linear", "knn")
BATCH = 16  # clips


class OnlineProbe:
    def __init__(
        self, data: Manifest, views: Views, *, seed: int, decoder: str, workers: int
    ) -> None:
        """`data`: all splits; `views`: what the objective eats, of which the first clip is looked at."""
        self.seed, self.workers = seed, workers
        train = some(data, "train", TRAIN, seed)
        known = {
            data.rows[i].label for i in train
        }  # a few clips of many classes do not hold them all
        val = some(data, "val", VAL, seed, known)
        self.few = data.take(train + val)
        if not train or len({data.rows[i].group for i in val}) < 2:
            raise UserError(
                f"--probe_every: {data.root} has too few labelled clips in train and val: val needs two groups."
            )
        one = Views(clips=views.clips[:1], augment="none", mean=views.mean, std=views.std)
        self.clips = Clips(self.few, one, seed=seed, short="pad", decoder=decoder, evaluate=1)

    def __call__(self, objective: Objective) -> dict[str, float]:
        """`probe/NAME/linear`, `probe/NAME/knn`: top-1 of each exported encoder."""
        with evaluating(objective):
            feats, rows = self.features(objective)
        scores = {}
        for name, table in feats.items():
            train, choose, read = (self.frozen(table, rows, part) for part in self.split(rows))
            for probe in PROBES:
                got = registry.probes[probe]().run(train, choose, read, self.seed)
                scores[f"probe/{name}/{probe}"] = got.metrics["test/top1"]
        return scores

    @torch.no_grad()
    def features(self, objective: Objective) -> tuple[dict[str, Tensor], list[int]]:
        """Name -> S D, and the rows of `few` that these are (files that cannot be read are left out)."""
        made: dict[str, list[Tensor]] = {name: [] for name in objective.exported_encoders()}
        rows: list[int] = []
        for batch in eval_loader(self.clips, range(len(self.few)), BATCH, self.workers):
            if not batch["readable"].any():
                continue
            rows += batch["index"].tolist()
            for name, encoder in objective.exported_encoders().items():
                clips = batch["clips"][:, 0].to(next(encoder.parameters()).device)
                made[name].append(encoder(encoder.normalise(clips)).pooled.float().cpu())
        return {name: torch.cat(parts) for name, parts in made.items()}, rows

    def split(self, rows: list[int]) -> tuple[list[int], list[int], list[int]]:
        """Places in `rows`: those to train on, to choose by and to read. A group of val is on one side of both."""
        of = [self.few.rows[row] for row in rows]
        half = {
            group: n % 2
            for n, group in enumerate(dict.fromkeys(row.group for row in of if row.split == "val"))
        }
        train = [at for at, row in enumerate(of) if row.split == "train"]
        choose, read = (
            [at for at, row in enumerate(of) if half.get(row.group) == side] for side in (0, 1)
        )
        return train, choose, read

    def frozen(self, table: Tensor, rows: list[int], part: list[int]) -> Frozen:
        of = [rows[at] for at in part]
        return Frozen(
            {"mean@last": table[part]}, self.few.labels[of], [self.few.groups[row] for row in of]
        )


def some(
    data: Manifest, split: str, n: int, seed: int, known: set[str | None] | None = None
) -> list[int]:
    """At most n labelled rows, the same ones every time; of the known classes, where these are given."""
    rows = [i for i, row in enumerate(data.rows) if row.split == split and row.label is not None]
    rows = rows if known is None else [i for i in rows if data.rows[i].label in known]
    return [rows[i] for i in permutation(seed, 0, len(rows))[:n].tolist()]
