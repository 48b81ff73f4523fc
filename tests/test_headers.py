"""Sizes and faults of image files, found without decoding them and remembered between runs."""

import io
import json
import os
import threading

import fsspec
import numpy as np
import pytest
from PIL import Image
from test_images import bomb, encoded, picture

from lightning_automl_vision.data.headers import ImageHeader, read_headers
from lightning_automl_vision.data.images import decode_image
from lightning_automl_vision.settings import DataConfig


@pytest.fixture
def config(tmp_path):
    return DataConfig(cache=str(tmp_path / "cache"))


def written(folder, name, data):
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(data)
    return str(folder / name)


def cache_files(tmp_path):
    return list((tmp_path / "cache" / "headers").iterdir())


FORMS = ["JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF"]


@pytest.mark.parametrize("orientation", [1, 3, 6])
@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("padding", [0, 300_000])
def test_the_size_is_that_of_the_displayed_picture(tmp_path, config, form, orientation, padding):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(picture(48, 32)), form, exif=exif) + bytes(padding)
    pixels = decode_image(data, name="it", maximum_pixels=10**6)
    path = written(tmp_path / "images", "a", data)
    assert read_headers([path], config) == [ImageHeader(pixels.shape[1], pixels.shape[0])]
    assert (pixels.shape[1] < pixels.shape[0]) == (orientation == 6)


def test_a_large_exif_block_and_a_large_file_do_not_hide_the_size(tmp_path, config):
    noise = np.random.default_rng(0).integers(0, 256, (300, 500, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 8
    data = encoded(Image.fromarray(noise), "JPEG", exif=exif, comment=b"x" * 60_000, icc_profile=bytes(150_000))
    assert len(data) > 300_000
    assert read_headers([written(tmp_path / "images", "a.jpg", data)], config) == [ImageHeader(300, 500)]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("width", "height"), [(60, 40), (600, 500)])
@pytest.mark.parametrize("share", [0.3, 0.98])
def test_a_truncated_file_is_found_without_decoding_it(tmp_path, config, form, width, height, share):
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), form)
    whole = written(tmp_path / "images", "whole", data)
    short = written(tmp_path / "images", "short", data[: int(len(data) * share)])
    found = read_headers([whole, short, whole], config)
    assert found[0] == found[2] == ImageHeader(width, height)
    assert isinstance(found[1], str)
    assert found[1].startswith(("is truncated", "is a damaged image"))


def test_a_thumbnails_end_is_not_the_end_of_a_truncated_jpeg(tmp_path, config):
    thumbnail = encoded(Image.fromarray(picture(16, 16)), "JPEG")
    data = encoded(Image.fromarray(picture(400, 300)), "JPEG", exif=b"Exif\0\0" + b"II*\0\x08\0\0\0\0\0" + thumbnail)
    assert read_headers([written(tmp_path / "images", "a.jpg", data[:-20])], config) == ["is truncated"]


def test_faults_are_words_that_follow_the_name(tmp_path, config):
    images = tmp_path / "images"
    faulty = {
        written(images, "empty.jpg", b""): "is empty",
        written(images, "text.jpg", b"just text"): "is not an image in a known format (JPEG, PNG, ",
        written(images, "drawing.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"): "is not an image in",
        written(
            images, "bomb.png", bomb()
        ): "has 60000 x 60000 = 3600000000 pixels, more than data.maximum_image_pixels",
        str(images / "gone.jpg"): "there is no such file",
        str(images): "is a folder, not a file",
        str(images / "a\0b.jpg"): "cannot be read (",
        "memory://test_headers/gone.jpg": "there is no such file",
    }
    found = read_headers(list(faulty), config)
    for words, (name, expected) in zip(found, faulty.items(), strict=True):
        assert isinstance(words, str), name
        assert words.startswith(expected)


def test_a_pipe_is_not_waited_for(tmp_path, config):
    os.mkfifo(tmp_path / "pipe.jpg")
    assert read_headers([str(tmp_path / "pipe.jpg")], config) == ["is not a regular file"]


def test_the_limit_on_pixels_holds_for_remembered_headers_too(tmp_path, config):
    path = written(tmp_path / "images", "a.png", encoded(Image.fromarray(picture(48, 32)), "PNG"))
    assert read_headers([path], config) == [ImageHeader(48, 32)]
    config.maximum_image_pixels = 1000
    assert "has 48 x 32 = 1536 pixels" in str(read_headers([path], config)[0])


def test_urls_are_read(config):
    data = encoded(Image.fromarray(picture(48, 32)), "JPEG")
    fsspec.filesystem("memory").pipe("/test_headers/a.jpg", data)
    assert read_headers(["memory://test_headers/a.jpg"], config) == [ImageHeader(48, 32)]


def test_a_remembered_header_is_not_read_again_until_the_file_changes(tmp_path, config):
    path = written(tmp_path / "images", "a.png", encoded(Image.fromarray(picture(48, 32)), "PNG"))
    url = f"file://{path}"
    assert read_headers([path, url], config) == [ImageHeader(48, 32)] * 2
    (cache,) = cache_files(tmp_path)
    content = json.loads(cache.read_text())
    (entry,) = content["headers"].values()
    entry[2:] = [7, 8]
    cache.write_text(json.dumps(content))
    assert read_headers([path, url], config) == [ImageHeader(7, 8)] * 2
    os.utime(path, ns=(1, 1))
    assert read_headers([path], config) == [ImageHeader(48, 32)]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b'{"version": 1}',
        b'{"version": 99, "headers": {}}',
        b'{"version":1,"headers":[1]}',
        b'{"version":1,"headers":{"a.png":[1,2,"3",4]}}',
        b"[" * 100_000,
    ],
)
def test_a_broken_cache_is_ignored_and_written_anew(tmp_path, config, content):
    path = written(tmp_path / "images", "a.png", encoded(Image.fromarray(picture(48, 32)), "PNG"))
    read_headers([path], config)
    (cache,) = cache_files(tmp_path)
    whole = cache.read_bytes()
    cache.write_bytes(content)
    assert read_headers([path], config) == [ImageHeader(48, 32)]
    assert cache.read_bytes() == whole


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path):
    (tmp_path / "file").write_text("")
    path = written(tmp_path / "images", "a.png", encoded(Image.fromarray(picture(48, 32)), "PNG"))
    assert read_headers([path], DataConfig(cache=str(tmp_path / "file"))) == [ImageHeader(48, 32)]


def test_parts_of_a_set_share_a_cache_and_keep_each_others_entries(tmp_path, config):
    data = encoded(Image.fromarray(picture(48, 32)), "PNG")
    paths = [written(tmp_path / "images", f"{number}.png", data) for number in range(6)]
    read_headers(paths[:3], config)
    read_headers(paths[3:], config)
    (cache,) = cache_files(tmp_path)
    assert len(json.loads(cache.read_text())["headers"]) == 6


def test_many_may_read_and_write_at_once(tmp_path, config):
    data = encoded(Image.fromarray(picture(48, 32)), "PNG")
    paths = [written(tmp_path / "images", f"{number}.png", data) for number in range(40)]
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(read_headers(paths, config))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [[ImageHeader(48, 32)] * 40] * 6
    (cache,) = cache_files(tmp_path)
    assert len(json.loads(cache.read_bytes())["headers"]) == 40


def test_the_users_cache_folder_is_the_default(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    path = written(tmp_path / "images", "a.png", encoded(Image.fromarray(picture()), "PNG"))
    read_headers([path], DataConfig())
    assert list((tmp_path / "user" / "lightning_automl_vision" / "headers").glob("*.json"))


def test_no_images_have_no_headers(config):
    assert read_headers([], config) == []


def test_a_picture_above_pillows_own_limit_is_fine_without_a_warning(tmp_path, config):
    stream = io.BytesIO()
    Image.new("1", (14_000, 14_000)).save(stream, "TIFF", compression="group4")
    path = written(tmp_path / "images", "large.tif", stream.getvalue())
    assert read_headers([path], config) == [ImageHeader(14_000, 14_000)]
