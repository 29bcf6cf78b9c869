"""ssvid: self-supervised video representations."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ssvid.hub import create_encoder, list_encoders, load_encoder

__all__ = ["create_encoder", "list_encoders", "load_encoder"]


def __getattr__(name: str) -> Any:
    """Only what is asked for is imported: torch takes seconds, and `ssvid.sweep status` needs none of it."""
    import importlib

    if name not in __all__:
        raise AttributeError(f"module 'ssvid' has no attribute {name!r}")
    return getattr(importlib.import_module("ssvid.hub"), name)
