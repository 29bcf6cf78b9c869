"""ssvid: self-supervised video representations."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ssvid.encoder import create_encoder, list_encoders
    from ssvid.weights import load_encoder

__all__ = ["create_encoder", "list_encoders", "load_encoder"]


def __getattr__(name: str) -> Any:
    """Only what is asked for is imported: torch takes seconds, and `ssvid.sweep status` needs none of it."""
    import importlib

    if name not in __all__:
        raise AttributeError(f"module 'ssvid' has no attribute {name!r}")
    module = "ssvid.weights" if name == "load_encoder" else "ssvid.encoder"
    return getattr(importlib.import_module(module), name)
