"""From pairwise pointmaps to cameras and depth of a whole video: the paper's reference method and a fast one.

`register` is the entrance, `joint_fit` the fast method's second-order fit of all poses, `reference` the paper's energy by Adam.
"""

from jog3r.geometry.registration.register import Registration, register_pointmaps

__all__ = ["Registration", "register_pointmaps"]
