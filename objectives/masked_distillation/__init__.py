"""Hidden tokens and the whole clip, as a frozen teacher sees them: stage 2 of VideoPrism."""

from objectives.masked_distillation.objective import MaskedDistillation

__all__ = ["MaskedDistillation"]
