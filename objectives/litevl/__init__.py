"""LiteVL (arXiv:2210.11929) on BLIP (arXiv:2201.12086): retrieval with matching, and questions."""

from objectives.litevl.questions import LiteVLQuestions
from objectives.litevl.retrieval import LiteVLRetrieval

__all__ = ["LiteVLQuestions", "LiteVLRetrieval"]
