"""ssvid: self-supervised video representations."""

from ssvid.encoder import create_encoder, list_encoders

__all__ = ["create_encoder", "list_encoders"]
