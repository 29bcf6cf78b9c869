"""ssvid: self-supervised video representations."""

from ssvid.encoder import create_encoder, list_encoders
from ssvid.weights import load_encoder

__all__ = ["create_encoder", "list_encoders", "load_encoder"]
