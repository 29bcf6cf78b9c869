"""Two clips of a video should look alike: the objective, and lightly's losses as it uses them."""

from objectives.two_view.objective import TwoView

__all__ = ["TwoView"]
