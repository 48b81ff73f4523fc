"""The windows that a run trains on and judges: which there are, and what a data set shows through them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning_automl_vision.composed import Settings, given
from lightning_automl_vision.data.labelled import LabelledImages
from lightning_automl_vision.data.resizing import Resizing
from lightning_automl_vision.data.tiled import Windows, empty_tiles, tiled
from lightning_automl_vision.data.window_sampling import Cut
from lightning_automl_vision.judging import TILES, WHOLE
from lightning_automl_vision.log import LOG
from lightning_automl_vision.run import finite
from lightning_automl_vision.tile_advice import DEFINITIONS, NO_TILING, Survey, advise, layout_of
from lightning_automl_vision.tiler_settings import TilerConfig, TilingConfig
from lightning_automl_vision.tiling import GridTiler
from lightning_automl_vision.tiling_plan import Tiling, merge_of, tiling_of

PRIMARY = "mean_average_precision"
_MEGABYTE = 1 << 20


def tiling_for(settings: Settings, images: LabelledImages[Any], resizing: Resizing) -> Tiling:
    """What the configuration asks for; with ``tiler=auto`` what the advisor recommends for these images."""
    tiling = tiling_of(settings.tiler, [name for name, _ in given(settings.overrides)])
    if tiling is not None:
        return tiling
    advice = advise(Survey(layout_of(images), resizing))
    chosen = advice.recommended
    LOG.info("tiler=auto: %s, %s.", chosen.words, advice.reason)
    if not chosen.is_tiling:
        return Tiling()
    assert isinstance(settings.tiler, TilingConfig)
    return Tiling(tiler=GridTiler(chosen.grid, chosen.overlap_ratio), merge=merge_of(settings.tiler))


def seen_through(tiling: Tiling, config: TilerConfig, images: LabelledImages[Any]) -> LabelledImages[Any]:
    """Every picture that the model may be shown of these images."""
    if not (tiling.cuts and isinstance(config, TilingConfig)):
        return images
    return tiled(images, Windows.of(images, tiling.tiler), config.minimum_visibility)


def cut_of(tiling: Tiling, config: TilerConfig, images: LabelledImages[Any], *, training: bool) -> Cut | None:
    """The windows to read; for training with no more empty tiles than asked for."""
    if not (tiling.cuts and isinstance(config, TilingConfig)):
        return None
    windows = Windows.of(images, tiling.tiler)
    cut = Cut(
        windows=windows,
        samples=tiled(images, windows, config.minimum_visibility).samples,
        memory=config.cache_megabytes * _MEGABYTE,
        empty=empty_tiles(images, windows, config.minimum_visibility) if training else None,
        empty_share=config.empty_tiles,
    )
    if training:
        tell(cut, images)
    return cut


def gains(
    tiling: Tiling, images: LabelledImages[Any], resizing: Resizing, metrics: Mapping[str, float]
) -> dict[str, Any]:
    """What the advisor predicted of these tiles for these images, beside what the best epoch's metrics say of them."""
    merged, tiles, whole = (finite(metrics.get(f"{name}{PRIMARY}")) for name in ("", f"{TILES}_", f"{WHOLE}_"))
    told: dict[str, Any] = {
        **tiling.as_settings(),
        "measured": {"merged": merged, TILES: tiles, WHOLE: whole, "gain": _difference(merged, whole)},
    }
    tiler = tiling.tiler
    if isinstance(tiler, GridTiler):
        survey = Survey(layout_of(images), resizing)
        before, after = survey.effect(NO_TILING, 0.0).score, survey.effect(tiler.grid, tiler.overlap_ratio).score
        told["predicted"] = {"score": after, "score_without_tiles": before, "gain": _difference(after, before)}
        told["predicted"]["definition"] = f"the advisor's score on the training set: {DEFINITIONS['score']}"
    told["measured"]["definition"] = (
        f"{PRIMARY} on the validation set: of all windows merged, of tiles without the whole image, and of the whole"
        " image alone, by the same model; the gain is the first less the last"
    )
    _tell_gains(told)
    return told


def _tell_gains(told: Mapping[str, Any]) -> None:
    measured, predicted = told["measured"], told.get("predicted")
    if predicted is not None:
        LOG.info(
            "Tiles were predicted to raise how well objects are seen by %.3f, from %.3f to %.3f.",
            predicted["gain"],
            predicted["score_without_tiles"],
            predicted["score"],
        )
    if measured["gain"] is not None:
        LOG.info(
            "With tiles %s is %.4f; by whole images alone it is %.4f, by tiles alone %.4f.",
            PRIMARY,
            *(measured[name] for name in ("merged", WHOLE, TILES)),
        )


def _difference(after: float | None, before: float | None) -> float | None:
    return None if after is None or before is None else after - before


def tell(cut: Cut, images: LabelledImages[Any]) -> None:
    """What an epoch will see."""
    assert cut.empty is not None
    tiles = len(cut.windows) - len(images)
    LOG.info(
        "Tiles: %d of %d images, %d of them without objects, of which an epoch shows %d.",
        tiles,
        len(images),
        cut.empty.sum(),
        cut.kept_empty,
    )
