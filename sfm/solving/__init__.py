"""Cameras: several beginnings, bundle adjustment of each over the same tracks, one judge."""

from jog3r.sfm.solving.beginnings import solve
from jog3r.sfm.solving.judge import Verdict
from jog3r.sfm.solving.prior import FocalPrior

__all__ = ["FocalPrior", "Verdict", "solve"]
