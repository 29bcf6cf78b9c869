"""Result files: their schema, how they are read and written, and short texts about them. No torch.

`provenance.py` alone needs torch: it describes encoders and data sets for a new result.
"""

from ssvid.results.files import read_folder, read_result, refuse_another, write_result
from ssvid.results.schema import (
    BENCH,
    SCHEMA,
    TUNED,
    Answers,
    Cost,
    DataInfo,
    EncoderInfo,
    Fold,
    Gain,
    Leak,
    Result,
    Score,
    digest,
)

__all__ = [
    "BENCH",
    "SCHEMA",
    "TUNED",
    "Answers",
    "Cost",
    "DataInfo",
    "EncoderInfo",
    "Fold",
    "Gain",
    "Leak",
    "Result",
    "Score",
    "digest",
    "read_folder",
    "read_result",
    "refuse_another",
    "write_result",
]
