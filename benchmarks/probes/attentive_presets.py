"""name -> the settings of an attentive probe: the published protocols, and one for small sets."""

from typing import TypedDict


class Protocol(TypedDict):
    depth: int  # 1: a cross-attention; n: behind n - 1 blocks of self-attention
    complete: bool  # the cross-attention has a residual and an MLP
    heads: int  # of attention
    width: int | None  # of attention, inside; None: that of the tokens
    eps: float  # of layer norms
    dropout: float  # of the pooled vector
    smoothing: float  # of labels
    rates: tuple[float, ...]
    weight_decays: tuple[float, ...]  # decoupled, as in AdamW
    decay_all: bool  # False: biases and layer norms do not decay
    adam_eps: float
    clip: float  # largest norm of a head's gradient; 0: no limit
    warmup: float  # share of the steps
    epochs: int
    min_steps: int  # a small train split gets more epochs instead
    batch: int  # clips


VIDEOGLUE: Protocol = {
    "depth": 1,
    "complete": False,
    "heads": 12,
    "width": 768,
    "eps": 1e-6,
    "dropout": 0.5,
    "smoothing": 0.1,
    "rates": (4e-5, 1e-4, 5e-4, 2.5e-3),  # the published start and the ends of the published search
    "weight_decays": (1e-5,),
    "decay_all": False,
    "adam_eps": 1e-7,
    "clip": 1.0,
    "warmup": 0.05,
    "epochs": 50,
    "min_steps": 1,
    "batch": 256,
}
BLOCKS4: Protocol = {
    "depth": 4,
    "complete": True,
    "heads": 16,
    "width": None,
    "eps": 1e-5,
    "dropout": 0.0,
    "smoothing": 0.0,
    "rates": (5e-3, 3e-3, 1e-3, 3e-4, 1e-4),
    "weight_decays": (0.01, 0.1, 0.4, 0.8),
    "decay_all": True,
    "adam_eps": 1e-8,
    "clip": 0.0,
    "warmup": 0.0,
    "epochs": 20,
    "min_steps": 1,
    "batch": 256,
}
HOUSE: Protocol = {
    **VIDEOGLUE,
    "heads": 4,
    "width": None,
    "dropout": 0.1,
    "smoothing": 0.0,
    "rates": (1e-4, 3e-4, 1e-3, 3e-3),
    "weight_decays": (1e-2,),
    "epochs": 20,
    "min_steps": 200,
    "batch": 64,
}
PRESETS = {"videoglue": VIDEOGLUE, "blocks4": BLOCKS4, "house": HOUSE}
