"""ssvid: self-supervised pretraining and evaluation of video encoders."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ssvid.hub import create_encoder, list_encoders, load_encoder

__all__ = ["create_encoder", "list_encoders", "load_encoder"]


def __getattr__(name: str) -> Any:
    """Import the hub on first use: torch takes seconds, and `ssvid.sweep status` needs none."""
    import importlib

    if name not in __all__:
        raise AttributeError(f"module 'ssvid' has no attribute {name!r}")
    return getattr(importlib.import_module("ssvid.hub"), name)
