"""Crowds in torchvision's losses: what lies within one is neither an object nor background.

The targets of a picture hold the boxes of its crowds under ``crowds``, and its objects without them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.models.detection.fcos import FCOS, FCOSHead
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.retinanet import RetinaNet, RetinaNetHead
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork
from torchvision.ops import box_area, box_iou

Target = dict[str, Tensor]

SHARE = 0.5
BACKGROUND, IGNORED = -1, -2
SURELY_NOT = -100.0


def heed_crowds(network: nn.Module) -> None:
    """Make the parts that tell objects from background leave crowds out; torchvision lets nobody give it others."""
    if isinstance(network, GeneralizedRCNN):
        network.rpn.__class__ = CrowdAwareProposals
        network.roi_heads.__class__ = CrowdAwareHeads
    elif isinstance(network, RetinaNet):
        network.head.__class__ = CrowdAwareRetinaNetHead
    elif isinstance(network, FCOS):
        network.head.__class__ = CrowdAwareFCOSHead
    else:
        raise TypeError(f"{type(network).__name__} is none of the networks whose losses are known")


def in_crowd(boxes: Tensor, crowds: Tensor) -> Tensor:
    """Whether at least half of a box lies within one of the crowds."""
    corners = torch.maximum(boxes[:, None, :2], crowds[:, :2]), torch.minimum(boxes[:, None, 2:], crowds[:, 2:])
    within = (corners[1] - corners[0]).clamp(min=0).prod(dim=2)
    areas: Tensor = box_area(boxes)
    return ((within > 0) & (within >= SHARE * areas[:, None])).any(dim=1)


class CrowdAwareProposals(RegionProposalNetwork):  # type: ignore[misc]  # torchvision has no types
    def assign_targets_to_anchors(
        self, anchors: list[Tensor], targets: list[Target]
    ) -> tuple[list[Tensor], list[Tensor]]:
        labels, boxes = super().assign_targets_to_anchors(anchors, targets)
        for label, places, target in zip(labels, anchors, targets, strict=True):
            if len(target["crowds"]):
                label[(label == 0) & in_crowd(places, target["crowds"])] = -1
        return labels, boxes

    def compute_loss(
        self, objectness: Tensor, pred_bbox_deltas: Tensor, labels: list[Tensor], regression_targets: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        if torch.cat(labels).max() < 0:  # crowds everywhere: there is nothing to take the mean of
            return objectness.sum() * 0, pred_bbox_deltas.sum() * 0
        losses: tuple[Tensor, Tensor] = super().compute_loss(objectness, pred_bbox_deltas, labels, regression_targets)
        return losses


class CrowdAwareHeads(RoIHeads):  # type: ignore[misc]
    def forward(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: list[Target] | None = None,
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        if self.training and targets is not None:
            proposals = [self._outside(boxes, target) for boxes, target in zip(proposals, targets, strict=True)]
            if not any(map(len, proposals)) and not any(len(target["boxes"]) for target in targets):
                return [], self._nothing()
        answer: tuple[list[dict[str, Tensor]], dict[str, Tensor]] = super().forward(
            features, proposals, image_shapes, targets
        )
        return answer

    def _outside(self, boxes: Tensor, target: Target) -> Tensor:
        """Without those that would be background within a crowd."""
        if not len(target["crowds"]):
            return boxes
        keep = ~in_crowd(boxes, target["crowds"])
        if len(target["boxes"]):
            overlaps = box_iou(target["boxes"].to(boxes.dtype), boxes).amax(dim=0)
            keep |= overlaps >= self.proposal_matcher.low_threshold
        return boxes[keep]

    def _nothing(self) -> dict[str, Tensor]:
        zero = torch.stack([parameter.sum() for parameter in self.parameters()]).sum() * 0
        names = ("loss_classifier", "loss_box_reg", *(("loss_mask",) if self.has_mask() else ()))
        return dict.fromkeys(names, zero)


class CrowdAwareRetinaNetHead(RetinaNetHead):  # type: ignore[misc]
    def compute_loss(
        self, targets: list[Target], head_outputs: Target, anchors: list[Tensor], matched_idxs: list[Tensor]
    ) -> dict[str, Tensor]:
        matches = [
            match.masked_fill(within, IGNORED)
            for match, within in zip(matched_idxs, _background(targets, anchors, matched_idxs), strict=True)
        ]
        losses: dict[str, Tensor] = super().compute_loss(targets, head_outputs, anchors, matches)
        return losses


class CrowdAwareFCOSHead(FCOSHead):  # type: ignore[misc]
    def compute_loss(
        self, targets: list[Target], head_outputs: Target, anchors: list[Tensor], matched_idxs: list[Tensor]
    ) -> dict[str, Tensor]:
        """No label of this head is ignored: a logit that is surely right has neither loss nor gradient."""
        within = torch.stack(_background(targets, anchors, matched_idxs))
        logits = head_outputs["cls_logits"].masked_fill(within[:, :, None], SURELY_NOT)
        outputs = {**head_outputs, "cls_logits": logits}
        losses: dict[str, Tensor] = super().compute_loss(targets, outputs, anchors, matched_idxs)
        return losses


def _background(targets: list[Target], anchors: list[Tensor], matched_idxs: list[Tensor]) -> list[Tensor]:
    """Which anchors would be background within a crowd."""
    return [
        (match == BACKGROUND) & in_crowd(boxes, target["crowds"])
        for target, boxes, match in zip(targets, anchors, matched_idxs, strict=True)
    ]
