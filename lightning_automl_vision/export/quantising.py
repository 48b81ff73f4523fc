"""An ONNX file in whole numbers of 8 bits, their ranges taken from pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from lightning_automl_vision.export.runtime import Answers, Arrays, Run
from lightning_automl_vision.export.writing import unheard
from lightning_automl_vision.samples import Pixels

if TYPE_CHECKING:
    from onnx import ModelProto

# What has weights; all else stays in 32 bits.
_QUANTISED = ["Conv", "Gemm", "MatMul"]


def quantise(file: Path, inputs: Iterator[Arrays], *, sensitive: Sequence[str] = ()) -> None:
    """Change the file in place; ``inputs`` are such as the network will be given, ``sensitive`` parts stay exact."""
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Seen(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
        def __init__(self) -> None:
            self.inputs = inputs

        def get_next(self) -> Arrays | None:
            return next(self.inputs, None)

    with TemporaryDirectory() as place, unheard():
        prepared = Path(place) / file.name
        quant_pre_process(str(file), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            str(prepared),
            str(file),
            Seen(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=_QUANTISED,
            nodes_to_exclude=_nodes_in(onnx.load(str(prepared)), sensitive),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )


def _nodes_in(model: ModelProto, parts: Sequence[str]) -> list[str]:
    """Of these parts; an exporter joins the names of modules with dots and with slashes."""
    names = [node.name for node in model.graph.node]
    return [name for name in names if any(f".{part}." in name.replace("/", ".") for part in parts)]


def inputs_of(
    run: Run, answers: Answers, pictures: Sequence[Pixels], names: Sequence[str], prepared: Callable[[Run], Run]
) -> Iterator[Arrays]:
    """What the network is given of these names for each picture; ``prepared`` makes it one for uint8 pictures."""
    for picture in pictures:
        given: list[Arrays] = []

        def listening(inputs: Arrays, given: list[Arrays] = given) -> Arrays:
            given.append({name: inputs[name] for name in names})
            return run(inputs)

        answers(prepared(listening), [picture])
        yield from given
