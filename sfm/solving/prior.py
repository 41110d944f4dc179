"""What is known about the focal length before looking at the tracks."""

import math
from dataclasses import dataclass

USUAL_RATIO = 0.75  # focal length of phones, film and property videos, in longer sides of the picture: 0.48 (wide) to 1.3 (tele)
USUAL_SPREAD = 0.35  # of its logarithm
NETWORK_SPREAD = 0.3  # of the logarithm of a network's focal length


@dataclass(frozen=True)
class FocalPrior:
    """Focal length in work pixels, log-normal.

    Attributes:
        focal: The likeliest.
        spread: Standard deviation of its logarithm; 0 if it is given.
    """

    focal: float
    spread: float

    @property
    def known(self) -> bool:
        """Whether the focal length is given."""
        return self.spread == 0

    def cost(self, focal: float) -> float:
        """Half the squared deviation in standard deviations; 0 if the focal length is given."""
        return 0.0 if self.known else 0.5 * (math.log(focal / self.focal) / self.spread) ** 2


def usual_prior(longer_side: float, network_focal: float | None = None) -> FocalPrior:
    """That of a usual field of view, narrowed by a network's estimate if there is one; in the pixels of `longer_side`."""
    usual = FocalPrior(USUAL_RATIO * longer_side, USUAL_SPREAD)
    if network_focal is None:
        return usual
    precise, vague = NETWORK_SPREAD**-2, USUAL_SPREAD**-2
    middle = (precise * math.log(network_focal) + vague * math.log(usual.focal)) / (precise + vague)
    return FocalPrior(math.exp(middle), (precise + vague) ** -0.5)
