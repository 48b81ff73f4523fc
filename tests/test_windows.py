"""Images seen through windows: what each shows, in which order they come, and how often an image is decoded."""

from __future__ import annotations

import itertools
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from lightning_automl_vision.data import photos as photos_module
from lightning_automl_vision.data.batching import box_targets
from lightning_automl_vision.data.headers import ImageHeader
from lightning_automl_vision.data.labelled import LabelledImages
from lightning_automl_vision.data.module import make_loader
from lightning_automl_vision.data.photos import Photos
from lightning_automl_vision.data.resizing import LongSide
from lightning_automl_vision.data.sampling import EpochSampler, groups_by_rarest_label
from lightning_automl_vision.data.tiled import Windows, empty_tiles, tiled
from lightning_automl_vision.data.window_sampling import Cut, WindowSampler, dealt, lanes_for, packed, readers_for
from lightning_automl_vision.errors import ConfigError, PluginError
from lightning_automl_vision.geometry import Window
from lightning_automl_vision.object_augment import build_object_transform
from lightning_automl_vision.samples import Boxes, Place, Sample
from lightning_automl_vision.settings import MosaicConfig, ObjectAugmentConfig
from lightning_automl_vision.tiling import GridTiler, SizeTiler, Tiler, tiled_target, windows_of

WIDTH, HEIGHT = 120, 90
GRID = GridTiler((3, 2), 0.25)
SEVEN = 7  # six tiles and the whole image


def labelled(folder: Path | None, count: int, *, objects: int = 3, seed: int = 0) -> LabelledImages[Boxes]:
    """Pictures in which a small rectangle is as red as its number."""
    random = np.random.default_rng(seed)
    samples = []
    for number in range(count):
        corners = random.uniform(0, 0.9, (objects, 2))
        boxes = np.hstack([corners, corners + random.uniform(0.03, 0.1, (objects, 2))])
        target = Boxes(labels=random.integers(0, 2, objects), boxes=boxes, crowd=np.zeros(objects, np.bool_))
        image = f"{number}.png" if folder is None else str(folder / f"{number}.png")
        if folder is not None:
            cv2.imwrite(image, random.integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8))
        samples.append(Sample(image=image, target=target))
    headers = [ImageHeader(WIDTH, HEIGHT)] * count
    return LabelledImages(samples=samples, classes=("cat", "dog"), source="it", headers=headers)


def cut(images: LabelledImages[Boxes], **options: Any) -> Cut:
    windows = Windows.of(images, options.pop("tiler", GRID))
    usual = {"memory": 1 << 20}
    return Cut(windows=windows, samples=tiled(images, windows).samples, **{**usual, **options})


def sampler(cut: Cut, *, batch_size: int = 8, shuffle: bool = True, epoch: int = 0, **options: Any) -> WindowSampler:
    images = EpochSampler(len(cut.windows.sizes), shuffle=shuffle, seed=3, **options)
    drawn = WindowSampler(cut, images, batch_size, 3, shuffle)
    drawn.set_epoch(epoch)
    return drawn


def test_every_window_is_a_picture_of_what_is_labelled_in_it() -> None:
    images = labelled(None, 5)
    windows = Windows.of(images, GRID)
    pictures = tiled(images, windows, 0.3)
    assert len(pictures) == len(pictures.samples) == len(pictures.headers) == len(windows) == 5 * SEVEN
    assert [windows.image_of(number) for number in range(len(windows))] == sorted([*range(5)] * SEVEN)
    for number, (sample, header, window) in enumerate(zip(pictures.samples, pictures.headers, windows, strict=True)):
        whole = images.samples[number // SEVEN]
        assert (sample.image, sample.window) == (whole.image, window)
        assert (header.width, header.height) == (window.width, window.height)
        if number % SEVEN == 0:
            assert sample.target is whole.target
            continue
        wanted = tiled_target(whole.target.placed(Place(0, 0, WIDTH, HEIGHT)), window, 0.3)
        got = sample.target.placed(Place(0, 0, window.width, window.height))
        np.testing.assert_allclose(got.boxes, wanted.boxes)
        assert got.labels.tolist() == wanted.labels.tolist()


def test_windows_travel_to_other_processes() -> None:
    pictures = tiled(labelled(None, 3), Windows.of(labelled(None, 3), GRID))
    again = pickle.loads(pickle.dumps(pictures))
    assert [sample.window for sample in again.samples] == [sample.window for sample in pictures.samples]
    with pytest.raises(IndexError):
        pictures.samples[len(pictures)]


def test_tiles_that_show_nothing_are_known_beforehand() -> None:
    images = labelled(None, 12, objects=1)
    windows = Windows.of(images, GRID)
    empty = empty_tiles(images, windows, 0.3)
    shown = [len(sample.target.labels) for sample in tiled(images, windows, 0.3).samples]
    whole = np.arange(len(windows)) % SEVEN == 0
    assert empty.tolist() == ((np.array(shown) == 0) & ~whole).tolist()
    assert 0 < empty.sum() < len(empty)


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 0.9, 1.0])
def test_empty_tiles_are_drawn_up_to_their_share_and_whole_images_always(share: float) -> None:
    images = labelled(None, 30, objects=1)
    empty = empty_tiles(images, Windows.of(images, GRID))
    epochs = []
    for epoch in range(6):
        drawn = [draw.image for draw in sampler(cut(images, empty=empty, empty_share=share), epoch=epoch)]
        tiles = [window for window in drawn if window % SEVEN]
        assert len({*drawn}) == len(drawn)
        assert {*range(0, 30 * SEVEN, SEVEN)} <= {*drawn}
        assert {*np.flatnonzero(~empty)} <= {*drawn}
        count = sum(empty[window] for window in tiles)
        assert count / len(tiles) <= share
        assert share == 1 or count == empty.sum() or (count + 1) / (len(tiles) + 1) > share
        epochs.append(frozenset(window for window in tiles if empty[window]))
    assert (len({*epochs}) > 1) == (0 < len(epochs[0]) < empty.sum())
    assert len(drawn) == len(sampler(cut(images, empty=empty, empty_share=share)))


@pytest.mark.parametrize("count", [1, 5, 41, 200])
@pytest.mark.parametrize("batch_size", [1, 3, 8, 64])
@pytest.mark.parametrize("shuffle", [True, False])
def test_every_window_comes_once(count: int, batch_size: int, shuffle: bool) -> None:
    draws = list(sampler(cut(labelled(None, count)), batch_size=batch_size, shuffle=shuffle, epoch=4))
    assert sorted(draw.image for draw in draws) == list(range(SEVEN * count))
    assert {(draw.epoch, draw.repeat) for draw in draws} == {(4, 0)}
    assert all(draw.image in draw.pool for draw in draws)


def test_another_epoch_has_another_order() -> None:
    images = cut(labelled(None, 20))
    orders = [[draw.image for draw in sampler(images, epoch=epoch)] for epoch in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]


def test_classes_are_balanced_by_image_and_an_epoch_keeps_its_length() -> None:
    images = labelled(None, 25, objects=1)
    groups = groups_by_rarest_label(images.samples, 2)
    drawn = sampler(cut(images), groups=groups)
    draws = list(drawn)
    assert len(draws) == len(drawn) == 25 * SEVEN
    assert max(draw.repeat for draw in draws) >= 1
    assert len({(draw.image, draw.repeat) for draw in draws}) == len(draws)


@pytest.mark.parametrize("processes", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("tiler", [GRID, GridTiler((8, 4), 0.25)])
def test_an_image_is_decoded_little_more_than_once_however_many_processes_read(processes: int, tiler: Tiler) -> None:
    """Batches go to processes in turn, each of which keeps images while memory lasts."""
    images = labelled(None, 100)
    size = 3 * WIDTH * HEIGHT
    memory = 64 * size
    readers = readers_for(processes, 100)
    draws = list(sampler(cut(images, memory=memory, tiler=tiler), batch_size=16))
    held: list[dict[int, None]] = [{} for _ in range(readers)]
    decoded, most = Counter[int](), 0
    windows = Windows.of(images, tiler)
    for number, draw in enumerate(draws):
        cache, image = held[number // 16 % readers], windows.image_of(draw.image)
        decoded[image] += image not in cache
        cache.pop(image, None)
        cache[image] = None
        if len(cache) > memory // readers // size:
            cache.pop(next(iter(cache)))
        most = max(most, sum(map(len, held)))
    assert decoded.total() <= 1.3 * 100
    assert most <= 64


def test_the_order_does_not_depend_on_the_number_of_processes(tmp_path: Path) -> None:
    images = labelled(tmp_path, 24)
    seen = []
    for workers in (0, 1, 2):
        batches = loader(images, workers=workers)
        seen.append([(key, window) for batch in batches for key, window in zip(batch.keys, batch.windows, strict=True)])
    assert seen[0] == seen[1] == seen[2]
    assert len(seen[0]) == 24 * SEVEN


def loader(images: LabelledImages[Boxes], *, workers: int, **options: Any) -> Any:
    transform = build_object_transform(
        ObjectAugmentConfig(mosaic=MosaicConfig(p=options.pop("mosaic", 0.0))), LongSide(64), epochs=2
    )
    return make_loader(
        images.samples,
        num_classes=2,
        truth=box_targets,
        transform=transform,
        batch_size=8,
        seed=1,
        shuffle=True,
        cut=cut(images, memory=options.pop("memory", 1 << 22)),
        workers=workers,
        **options,
    )


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("mosaic", [0.0, 1.0])
def test_files_are_read_little_more_than_once_an_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int, mosaic: float
) -> None:
    images, log = labelled(tmp_path, 40), tmp_path / "log"
    usual = photos_module.read_image

    def reading(image: Any, **options: Any) -> Any:
        with log.open("a") as lines:
            lines.write(f"{Path(image).stem}\n")
        return usual(image, **options)

    monkeypatch.setattr(photos_module, "read_image", reading)
    batches = loader(images, workers=workers, mosaic=mosaic, memory=30 * 3 * WIDTH * HEIGHT)
    assert sum(len(batch) for batch in batches) == 40 * SEVEN
    read = log.read_text().split()
    assert len({*read}) == 40
    assert len(read) <= 1.3 * 40


def test_a_tile_holds_the_pixels_of_its_window(tmp_path: Path) -> None:
    images = labelled(tmp_path, 3)
    batches = make_loader(
        images.samples,
        num_classes=2,
        truth=box_targets,
        transform=LongSide(WIDTH),
        batch_size=1,
        seed=0,
        cut=cut(images, tiler=GridTiler((2, 2), 0.0)),
        workers=0,
    )
    for batch in batches:
        (window,), (index,) = batch.windows, batch.indices
        whole = cv2.imread(images.samples[index].image)[..., ::-1]
        part = whole[int(window.top) : int(window.bottom), int(window.left) : int(window.right)]
        wanted = cv2.resize(np.ascontiguousarray(part), (WIDTH, HEIGHT), interpolation=cv2.INTER_LINEAR)
        assert (batch.images[0].permute(1, 2, 0).numpy() == wanted).all()
        assert batch.places == [Place(0, 0, WIDTH, HEIGHT)]


def test_memory_for_decoded_images_is_bounded(tmp_path: Path) -> None:
    images, size = labelled(tmp_path, 9), 3 * WIDTH * HEIGHT
    photos = Photos(4 * size, maximum_pixels=10**6)
    for sample in images.samples:
        assert (photos[sample.image] == photos[sample.image]).all()
        assert photos._bytes == sum(pixels.nbytes for pixels in photos._held.values()) <= 4 * size
    assert len(photos._held) == 4
    small = Photos(1, maximum_pixels=10**6)
    assert small[images.samples[0].image].nbytes == size
    assert len(small._held) == 1


def test_what_is_dealt_is_whole_batches_but_for_the_last_one_given() -> None:
    for length in (1, 7, 16, 17, 99, 128, 130):
        for size in (1, 4, 16):
            parts = dealt(np.arange(length), size, 8)
            order = [
                part[start : start + size]
                for start in range(0, length, size)
                for part in parts
                if len(part[start : start + size])
            ]
            assert sorted(np.concatenate(order).tolist()) == list(range(length))
            assert all(len(batch) == size for batch in order[:-1])


def test_pools_hold_what_fits_and_always_one() -> None:
    assert packed([3, 3, 3, 9, 1, 1], 6).tolist() == [0, 0, 1, 2, 3, 3]
    assert packed([], 6).tolist() == []


def test_few_images_are_read_by_few_processes() -> None:
    assert [lanes_for(images) for images in (1, 19, 20, 59, 60, 139, 140, 10**6)] == [1, 1, 2, 2, 4, 4, 8, 8]
    assert [readers_for(processes, 10**6) for processes in (0, 1, 3, 6, 8, 40)] == [0, 1, 2, 4, 8, 8]
    assert readers_for(8, 30) == 2


class Mine(Tiler):
    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def windows(self, width: int, height: int) -> Any:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer() if callable(self.answer) else self.answer


WHOLE = (0, 0, 100, 80)
COUNTED = itertools.count()


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ([], "the first window must be the whole image"),
        ([(0, 0, 50, 40)], "the first window must be the whole image"),
        ([WHOLE, (60, 0, 110, 40)], "each must lie in it"),
        ([WHOLE, (0, 0, 50, 40), (0, 0, 50, 40)], "none may come twice"),
        (lambda: [WHOLE, (0, 0, 50 + next(COUNTED), 40)], "the same each time"),
        ([WHOLE, (0, 0, 50.5, 40)], r"it fails: ValueError: 50\.5 is no whole pixel"),
        (None, "it fails: TypeError"),
        ([WHOLE, (0, 0)], "it fails: TypeError"),
        (RuntimeError("two\nlines"), "it fails: RuntimeError: two lines"),
    ],
)
def test_a_tiler_that_cannot_be_used_is_named(answer: Any, why: str) -> None:
    with pytest.raises(PluginError, match=rf"Mine\.windows\(100, 80\) .*{why}"):
        windows_of(Mine(answer), 100, 80)


def test_plain_tuples_are_windows_too() -> None:
    assert windows_of(Mine([WHOLE, (0, 0, 50, 80)]), 100, 80)[1] == Window(0, 0, 50, 80)


def test_more_tiles_than_anyone_would_wait_for_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"cuts an image of 640x480 pixels into \d+ tiles. The most are 10000"):
        windows_of(SizeTiler(16, 16, 0.95), 640, 480)
