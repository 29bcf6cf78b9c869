"""TAN (Han et al. 2022, arXiv:2204.02968): the objective, its aligner, and the pseudo-labels of
co-training.
"""

from objectives.tan.objective import TAN

__all__ = ["TAN"]
