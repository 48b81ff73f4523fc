"""How deep and wide the network is at each of its sizes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

CHANNELS_ARE_MULTIPLES_OF = 8


@dataclass(frozen=True)
class Size:
    """Factors of the nominal numbers of blocks and of channels."""

    depth: float
    width: float

    def channels(self, nominal: int) -> int:
        return CHANNELS_ARE_MULTIPLES_OF * math.ceil(nominal * self.width / CHANNELS_ARE_MULTIPLES_OF)

    def blocks(self, nominal: int) -> int:
        return max(round(nominal * self.depth), 1)


EXTRA_LARGE = Size(depth=1.33, width=1.25)

SIZES: Mapping[str, Size] = {
    "nano": Size(depth=0.33, width=0.25),
    "small": Size(depth=0.33, width=0.50),
    "medium": Size(depth=0.67, width=0.75),
    "large": Size(depth=1.00, width=1.00),
    "extra_large": EXTRA_LARGE,
    "xlarge": EXTRA_LARGE,
}

LAYERS_OF_BODY = 10
GROUPS = tuple((f"network.model.{layer}.",) for layer in range(LAYERS_OF_BODY))
"""What can be frozen of the model's own body, by the names of its parameters."""
