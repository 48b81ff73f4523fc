"""One export: written beside the place it is for, compared, and kept there if it is as good as the model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from lightning_automl_vision.errors import RequirementError
from lightning_automl_vision.export.folder import PARITY, beside, bytes_of, keep, keep_failed, write_folder
from lightning_automl_vision.export.formats import Options
from lightning_automl_vision.export.graph import eager
from lightning_automl_vision.export.parity import Parity, compare
from lightning_automl_vision.export.pictures import Pictures
from lightning_automl_vision.export.stages import shown_of, stage_of
from lightning_automl_vision.export.writing import graph_of
from lightning_automl_vision.log import LOG
from lightning_automl_vision.model_folder import WEIGHTS
from lightning_automl_vision.predictor import OpenedModel, Predictor, load
from lightning_automl_vision.run import write_json
from lightning_automl_vision.specs import TASKS


@dataclass(frozen=True, kw_only=True)
class Exporting:
    """``pictures`` are those to compare on, and to calibrate with; how many of them are used is said beside."""

    opened: OpenedModel
    format: str
    options: Options
    output: Path
    pictures: Pictures | None
    compared: int
    calibrating: int
    tolerance: float

    def run(self) -> dict[str, Any] | None:
        """What parity.json holds, if anything was compared; RequirementError where the export is not as good."""
        with beside(self.output) as place:
            folder = place / "model"
            folder.mkdir()
            document = self._written(folder)
            keep(folder, self.output)
        return document

    def _written(self, folder: Path) -> dict[str, Any] | None:
        chosen, indices = (None, []) if self.pictures is None else self.pictures.chosen(self.compared)
        write_folder(self.opened, self.format, self._calibrated(indices), folder)
        if chosen is None or not len(chosen):
            LOG.warning("Nothing was compared (parity.images=0): whether the export says the same is not known.")
            return None
        return self._checked(compare(self._reference, load(folder), chosen, self._judged_by), folder)

    @cached_property
    def _reference(self) -> Predictor:
        return load(self.opened.folder)

    @property
    def _judged_by(self) -> Any:
        task = TASKS[self.opened.card.task]
        return task.config(name=task.name, primary_metric=task.primary_metric)

    def _calibrated(self, compared: list[int]) -> Options:
        """With pictures that are not compared afterwards, where there are others."""
        if self.options.quantise is None or self.pictures is None:
            return self.options
        chosen, _ = self.pictures.chosen(self.calibrating, without=compared)
        shown = [picture for place in chosen.places for picture in shown_of(self._reference, place)]
        return replace(self.options, calibration=shown)

    def _checked(self, parity: Parity, folder: Path) -> dict[str, Any]:
        fault = parity.fault(self.tolerance, exact=self.options.exact)
        document = {
            "passed": fault is None,
            "tolerance": self.tolerance,
            **parity.as_dict(),
            "bytes": {"torch": (self.opened.folder / WEIGHTS).stat().st_size, "exported": bytes_of(folder)},
        }
        if fault is not None:
            self._refuse(document, fault, parity, folder)
        write_json(folder / PARITY, document)
        return document

    def _refuse(self, document: dict[str, Any], fault: str, parity: Parity, folder: Path) -> None:
        """Says where both sides part, and keeps what was written aside."""
        stages = self._stages(parity, load(folder))
        worst = [{**row, "stage": stage} for row, stage in zip(document["worst"], stages, strict=True)]
        write_json(folder / PARITY, {**document, "fault": fault, "worst": worst})
        place = keep_failed(folder, self.output)
        told = ", ".join(f"{row['filename']} ({row['agreement']:.3f})" for row in worst)
        raise RequirementError(
            f"The export is not as good as the model: on {document['images']} images of {document['source']} {fault}."
            f" The stage that differs is {Counter(stages).most_common(1)[0][0]}; the worst images are {told}."
            f" It is kept in {place}, with {PARITY}. Export otherwise, or allow more with parity.tolerance."
        )

    def _stages(self, parity: Parity, exported: Predictor) -> list[str]:
        """Of the worst pictures."""
        graph = eager(graph_of(self.opened, self.options))
        return [stage_of(self._reference, exported, graph, parity.pictures.places[index]) for index in parity.worst]


def summary(document: Mapping[str, Any], format: str, output: str) -> str:
    """What the export costs and saves, beside the model it was made from."""
    from lightning_automl_vision.tables import table

    metric, seconds, sizes = document["metric"], document["seconds_per_image"], document["bytes"]
    sides = ("torch", "exported")
    rows = [
        *([(metric["name"], *(f"{metric[side]:.4f}" for side in sides))] if metric["torch"] is not None else []),
        ("milliseconds an image", *(f"{1000 * seconds[side]:.1f}" for side in sides)),
        ("megabytes", *(f"{sizes[side] / 1e6:.1f}" for side in sides)),
    ]
    same = document["agreement"]
    return (
        f"{table(('', 'torch', format), rows)}\n\n{output}: the answers to {document['images']} images of"
        f" {document['source']} agree by {same['mean']:.4f}, the least by {same['lowest']:.4f}."
    )
