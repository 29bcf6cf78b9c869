"""Objective -> probe scores on a few labelled clips during training: `--probe_every N`.

The scores show progress and are no result: they use a few fixed train and val clips, pooled
features of the exported encoders, and no controls. Half of the val clips selects the setting of the
probe and the other half is scored. The test split is never read. No weight changes.
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

TRAIN, VAL = 256, 256  # largest number of clips
PROBES = ("linear", "knn")
BATCH = 16  # clips


class OnlineProbe:
    """Scores the exported encoders of an objective on a fixed sample of clips."""

    def __init__(
        self, data: Manifest, views: Views, *, seed: int, decoder: str, workers: int
    ) -> None:
        """`data`: all splits. `views`: those of the objective; the probe reads their first clip.

        Raises a UserError if there are too few labelled clips.
        """
        self.seed, self.workers = seed, workers
        train = sample_rows(data, "train", TRAIN, seed)
        # The sampled train clips need not contain all classes.
        val = sample_rows(data, "val", VAL, seed, {data.rows[i].label for i in train})
        self.sample = data.take(train + val)
        if not train or len({data.rows[i].group for i in val}) < 2:
            raise UserError(
                f"--probe_every: {data.title} has too few labelled clips in train and val: val "
                "needs two groups."
            )
        one_clip = Views(clips=views.clips[:1], augment="none", mean=views.mean, std=views.std)
        self.clips = Clips(
            self.sample, one_clip, seed=seed, short="pad", decoder=decoder, evaluate=1
        )

    def __call__(self, objective: Objective) -> dict[str, float]:
        """`probe/NAME/linear` and `probe/NAME/knn`: top-1 of each exported encoder."""
        with evaluating(objective):
            features, rows = self.extract_features(objective)
        scores = {}
        for name, table in features.items():
            train, select, test = (self.freeze(table, rows, split) for split in self.split(rows))
            for probe in PROBES:
                result = registry.probes[probe]().run(train, select, test, self.seed)
                scores[f"probe/{name}/{probe}"] = result.metrics["test/top1"]
        return scores

    @torch.no_grad()
    def extract_features(self, objective: Objective) -> tuple[dict[str, Tensor], list[int]]:
        """Encoder's name -> S D, and the row in `sample` of each. Unreadable files are left out."""
        features: dict[str, list[Tensor]] = {name: [] for name in objective.exported_encoders()}
        rows: list[int] = []
        for batch in eval_loader(self.clips, range(len(self.sample)), BATCH, self.workers):
            if not batch["readable"].any():
                continue
            rows += batch["index"].tolist()
            for name, encoder in objective.exported_encoders().items():
                clips = batch["clips"][:, 0].to(next(encoder.parameters()).device)
                features[name].append(encoder(encoder.normalise(clips)).pooled.float().cpu())
        return {name: torch.cat(batches) for name, batches in features.items()}, rows

    def split(self, rows: list[int]) -> tuple[list[int], list[int], list[int]]:
        """Indices into `rows`: to train on, to select a setting by, and to score.

        The groups of val alternate between the last two, so no group is in both.
        """
        samples = [self.sample.rows[row] for row in rows]
        groups = dict.fromkeys(row.group for row in samples if row.split == "val")
        half = {group: n % 2 for n, group in enumerate(groups)}
        train = [i for i, row in enumerate(samples) if row.split == "train"]
        select = [i for i, row in enumerate(samples) if half.get(row.group) == 0]
        test = [i for i, row in enumerate(samples) if half.get(row.group) == 1]
        return train, select, test

    def freeze(self, table: Tensor, rows: list[int], indices: list[int]) -> Frozen:
        """The features, labels and groups of some rows, as a probe takes them."""
        chosen = [rows[i] for i in indices]
        groups = [self.sample.groups[row] for row in chosen]
        return Frozen({"mean@last": table[indices]}, self.sample.labels[chosen], groups)


def sample_rows(
    data: Manifest, split: str, n: int, seed: int, classes: set[str | None] | None = None
) -> list[int]:
    """At most n labelled rows, the same ones every time. `classes`: only rows of these classes."""
    rows = []
    for i, row in enumerate(data.rows):
        is_wanted = classes is None or row.label in classes
        if row.split == split and row.label is not None and is_wanted:
            rows.append(i)
    return [rows[i] for i in permutation(seed, 0, len(rows))[:n].tolist()]
