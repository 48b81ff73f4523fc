"""One export: written beside the place it is for, compared, and kept there if it is as good as the model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from lightning_automl_vision.errors import RequirementError
from lightning_automl_vision.export.cost import sizes, write_card
from lightning_automl_vision.export.folder import PARITY, beside, keep, keep_failed, write_folder
from lightning_automl_vision.export.formats import Options
from lightning_automl_vision.export.graph import eager
from lightning_automl_vision.export.parity import Parity, compare, told_apart
from lightning_automl_vision.export.pictures import Pictures
from lightning_automl_vision.export.stages import LEAST, NONE, shown_of, stage_of
from lightning_automl_vision.export.writing import graph_of
from lightning_automl_vision.log import LOG
from lightning_automl_vision.predictor import OpenedModel, Predictor, load
from lightning_automl_vision.run import write_json


@dataclass(frozen=True, kw_only=True)
class Exporting:
    """``pictures`` are those to compare on, and to calibrate with; how many of them are used is said beside.

    What is not as good as the model goes to ``aside``.
    """

    opened: OpenedModel
    format: str
    options: Options
    output: Path
    aside: Path
    pictures: Pictures | None
    compared: int
    calibrating: int
    tolerance: float

    def run(self) -> dict[str, Any]:
        """What parity.json holds, or the sizes alone where nothing was compared.

        RequirementError where the export is not as good.
        """
        with beside(self.output) as place:
            folder = place / "model"
            folder.mkdir()
            document = self._written(folder)
            write_card(self.opened, folder, document)
            keep(folder, self.output)
        return document

    def _written(self, folder: Path) -> dict[str, Any]:
        chosen, indices = (None, []) if self.pictures is None else self.pictures.chosen(self.compared)
        write_folder(self.opened, self.format, self._calibrated(indices), folder)
        exported = load(folder)
        if chosen is None or not len(chosen):
            LOG.warning("Nothing was compared (parity.images=0): whether the export says the same is not known.")
            return {"bytes": sizes(self.opened, folder)}
        return self._checked(compare(self._reference, exported, chosen), folder)

    @cached_property
    def _reference(self) -> Predictor:
        return load(self.opened.folder)

    def _calibrated(self, compared: list[int]) -> Options:
        """With pictures that are not compared afterwards, where there are others."""
        if self.options.quantise is None or self.pictures is None:
            return self.options
        chosen, indices = self.pictures.chosen(self.calibrating, without=compared)
        if {*indices} & {*compared}:
            LOG.warning(
                "All %d images of %s are compared: the ranges are taken from the same ones, and what the export costs"
                " elsewhere may be more.",
                len(self.pictures),
                self.pictures.source,
            )
        shown = [picture for place in chosen.places for picture in shown_of(self._reference, place)]
        return replace(self.options, calibration=shown, calibrated_on=tuple(chosen.names))

    def _checked(self, parity: Parity, folder: Path) -> dict[str, Any]:
        fault = parity.fault(self.tolerance, exact=self.options.exact)
        document = {
            "passed": fault is None,
            "tolerance": self.tolerance,
            **parity.as_dict(),
            "bytes": sizes(self.opened, folder),
        }
        if fault is not None:
            self._refuse(document, fault, parity, folder)
        write_json(folder / PARITY, document)
        return document

    def _refuse(self, document: Mapping[str, Any], fault: str, parity: Parity, folder: Path) -> None:
        """Says where both sides part, and keeps what was written aside."""
        stages = self._stages(parity, load(folder))
        worst = [{**row, "stage": stage} for row, stage in zip(document["worst"], stages, strict=True)]
        write_json(folder / PARITY, {**document, "fault": fault, "worst": worst})
        keep_failed(folder, self.aside)
        raise RequirementError(
            f"The export is not as good as the model: on {document['images']} images of {document['source']} {fault}."
            f" {_where(worst)} It is kept in {self.aside}, with {PARITY}. Export otherwise, or allow more with"
            " parity.tolerance."
        )

    def _stages(self, parity: Parity, exported: Predictor) -> list[str]:
        """Of the worst pictures."""
        graph = eager(graph_of(self.opened, self.options))
        return [stage_of(self._reference, exported, graph, parity.pictures.places[index]) for index in parity.worst]


def _where(worst: list[dict[str, Any]]) -> str:
    if not worst:
        return "Nothing differs but objects that score about as much as is asked for."
    told = ", ".join(f"{row['filename']} ({told_apart(row['agreement'], 1, 3)[0]})" for row in worst)
    stages = Counter(row["stage"] for row in worst if row["stage"] != NONE).most_common(1)
    if not stages:
        where = f"No single stage stands out: in each both sides differ by no more than {LEAST:g}, as rounding does"
    else:
        where = f"The stage that differs is {stages[0][0]}"
    return f"{where}; the worst images are {told}."
