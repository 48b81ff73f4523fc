"""The documented layer groups that ``layers_to_freeze`` counts, under the names timm gives the parameters."""

from __future__ import annotations

Groups = tuple[tuple[str, ...], ...]

# Also of ResNeSt and SE-ResNeXt, whose stem and stages timm names alike.
RESNET: Groups = (("network.conv1.", "network.bn1."), *((f"network.layer{stage}.",) for stage in range(1, 5)))

# Stem, the 17 inverted residuals one by one, and the last convolution: what others number features.0 to features.18.
MOBILENETV2: Groups = (
    ("network.conv_stem.", "network.bn1."),
    *(
        (f"network.blocks.{stage}.{block}.",)
        for stage, blocks in enumerate((1, 2, 3, 4, 3, 3, 1))
        for block in range(blocks)
    ),
    ("network.conv_head.", "network.bn2."),
)

# Twelve blocks are counted for every size, as documented, though the large one has 24.
VIT: Groups = (("network.patch_embed.",), *((f"network.blocks.{block}.",) for block in range(12)))
