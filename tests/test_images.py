"""Every kind of picture becomes the same RGB, however it is stored."""

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from lightning_automl_vision.data.images import decode_image, pixels_of, read_image, reduction
from lightning_automl_vision.data.resizing import (
    CenterCrop,
    Letterbox,
    LongSide,
    ShortSide,
    resized_to,
    resizing_from_settings,
    resizing_of,
)
from lightning_automl_vision.errors import ConfigError, DataError
from lightning_automl_vision.settings import AugmentConfig, TrainingConfig

LIMIT = 10_000_000


def picture(width=48, height=32):
    coarse = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


RGB = picture()
GRAY = np.asarray(Image.fromarray(RGB).convert("L"))
ALPHA = np.tile(np.linspace(0, 255, RGB.shape[1]).astype(np.uint8), (RGB.shape[0], 1))


def encoded(image, form, **options):
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def decoded(data, **options):
    return decode_image(data, name="it", maximum_pixels=LIMIT, **options)


def by_opencv(pixels, suffix):
    return cv2.imencode(suffix, pixels[..., ::-1] if pixels.ndim == 3 else pixels)[1].tobytes()


def on_white(pixels, alpha):
    share = alpha[..., None].astype(float) / 255
    return pixels * share + 255 * (1 - share)


def assert_equal(pixels, expected, tolerance=0):
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    assert pixels.shape == (*expected.shape[:2], 3)
    expected = expected if expected.ndim == 3 else np.dstack([expected] * 3)
    assert np.abs(pixels.astype(float) - expected).max() <= tolerance


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF", "PPM"])
def test_lossless_colour_is_exact(form):
    assert_equal(decoded(encoded(Image.fromarray(RGB), form)), RGB)


def test_lossless_webp_is_exact():
    assert_equal(decoded(encoded(Image.fromarray(RGB), "WEBP", lossless=True)), RGB)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"keep_rgb": True}])
def test_jpeg_is_what_pillow_shows(options):
    data = encoded(Image.fromarray(RGB), "JPEG", quality=90, **options)
    assert_equal(decoded(data), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")), tolerance=1)


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF", "GIF"])
def test_gray_becomes_three_equal_channels(form):
    assert_equal(decoded(encoded(Image.fromarray(GRAY), form)), GRAY)


def test_gray_jpeg_and_webp_become_three_equal_channels():
    data = encoded(Image.fromarray(GRAY), "JPEG", quality=95)
    assert_equal(decoded(data), np.asarray(Image.open(io.BytesIO(data))), tolerance=1)


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF"])
def test_one_bit_is_black_and_white(form):
    bits = GRAY > 127
    assert_equal(decoded(encoded(Image.fromarray(bits), form)), bits * np.uint8(255))


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF", "GIF"])
def test_palette_becomes_its_colours(form):
    image = Image.fromarray(RGB).quantize(32)
    assert_equal(decoded(encoded(image, form)), np.asarray(image.convert("RGB")))


def test_transparent_entry_of_a_palette_shows_white():
    image = Image.fromarray(RGB).quantize(32)
    index = int(np.asarray(image)[0, 0])
    expected = np.array(image.convert("RGB"))
    expected[np.asarray(image) == index] = 255
    for form in ("PNG", "GIF"):
        assert_equal(decoded(encoded(image, form, transparency=index)), expected)


@pytest.mark.parametrize(("form", "options"), [("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True, "exact": True})])
def test_transparency_is_shown_on_white(form, options):
    image = Image.fromarray(np.dstack([RGB, ALPHA]))
    assert_equal(decoded(encoded(image, form, **options)), on_white(RGB, ALPHA), tolerance=0.51)


def test_gray_with_transparency_is_shown_on_white():
    image = Image.merge("LA", [Image.fromarray(GRAY), Image.fromarray(ALPHA)])
    assert_equal(decoded(encoded(image, "PNG")), on_white(np.dstack([GRAY] * 3), ALPHA), tolerance=0.51)


def test_one_transparent_colour_of_a_png_shows_white():
    color = tuple(int(value) for value in RGB[3, 3])
    expected = RGB.copy()
    expected[(color == RGB).all(axis=2)] = 255
    assert_equal(decoded(encoded(Image.fromarray(RGB), "PNG", transparency=color)), expected)


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_sixteen_bits_are_scaled_from_the_full_range(suffix):
    wide = np.random.default_rng(1).integers(0, 65536, (9, 11, 3), dtype=np.uint16)
    wide[0, 0], wide[0, 1], wide[0, 2] = 0, 65535, 257
    for pixels in (wide, wide[..., 0]):
        result = decoded(by_opencv(pixels, suffix))
        assert_equal(result, pixels / 257, tolerance=0.51)
        assert result[0, :3, 0].tolist() == [0, 255, 1]


def test_sixteen_bits_by_pillow_and_in_a_pgm_are_the_same():
    wide = np.random.default_rng(1).integers(0, 65536, (9, 11), dtype=np.uint16)
    for form in ("PNG", "TIFF"):
        assert_equal(decoded(encoded(Image.fromarray(wide), form)), wide / 257, tolerance=0.51)
    pgm = b"P5 11 9 65535\n" + wide.astype(">u2").tobytes()
    assert_equal(decoded(pgm), wide / 257, tolerance=0.51)


def test_sixteen_bits_with_transparency_are_shown_on_white():
    wide = np.dstack([RGB, ALPHA]).astype(np.uint16) * 257
    data = cv2.imencode(".png", cv2.cvtColor(wide, cv2.COLOR_RGBA2BGRA))[1].tobytes()
    assert_equal(decoded(data), on_white(RGB, ALPHA), tolerance=0.51)


@pytest.mark.parametrize("deep", [False, True])
def test_white_is_zero_where_a_tiff_says_so(deep):
    pixels = GRAY.astype(np.uint16) * 257 if deep else GRAY
    if deep:
        data = encoded(Image.fromarray(pixels), "TIFF", tiffinfo={262: 0})
        assert_equal(decoded(data), 255 - GRAY)
    else:
        data = encoded(Image.fromarray(pixels), "TIFF", tiffinfo={262: 0})
        assert_equal(decoded(data), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


def test_cmyk_is_converted_and_adobes_inversion_undone():
    cmyk = Image.fromarray(RGB).convert("CMYK")
    assert_equal(decoded(encoded(cmyk, "TIFF")), RGB, tolerance=1)
    data = encoded(cmyk, "JPEG", quality=100, subsampling=0)
    assert b"Adobe" in data
    assert np.abs(decoded(data).astype(float) - RGB).mean() < 4
    # Without Adobe's marker the same values are not inverted, so the picture is the negative of its ink.
    start = data.index(b"\xff\xee")
    (length,) = struct.unpack(">H", data[start + 2 : start + 4])
    plain = data[:start] + data[start + 2 + length :]
    assert_equal(decoded(plain), np.asarray(Image.open(io.BytesIO(plain)).convert("RGB")))


def test_of_several_pictures_the_first_is_taken():
    first, second = Image.fromarray(RGB), Image.fromarray(255 - RGB)
    assert_equal(decoded(encoded(first, "TIFF", save_all=True, append_images=[second])), RGB)
    data = encoded(first, "MPO", save_all=True, append_images=[second], quality=95)
    assert np.abs(decoded(data).astype(float) - RGB).mean() < 6


def stored_as(pixels, orientation):
    """How pixels are stored that orientation turns into the picture given."""
    undo = {2: 2, 3: 3, 4: 4, 5: 5, 6: 8, 7: 7, 8: 6}.get(orientation, 1)
    exif = Image.Exif()
    exif[0x0112] = undo
    image = Image.fromarray(pixels)
    image.info["exif"] = exif.tobytes()
    return ImageOps.exif_transpose(image)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["PNG", "TIFF", "WEBP", "JPEG", "TIFF16", "PNG palette"])
def test_every_orientation_is_undone(form, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = stored_as(RGB, orientation)
    if form == "JPEG":
        data = encoded(stored, form, quality=98, subsampling=0, exif=exif)
        assert_equal(decoded(data), RGB, tolerance=8)
    elif form == "TIFF16":
        wide = Image.fromarray(np.asarray(stored.convert("L")).astype(np.uint16) * 257)
        assert_equal(decoded(encoded(wide, "TIFF", tiffinfo={274: orientation})), GRAY)
    elif form == "PNG palette":
        few = stored_as(RGB // 64 * 64, orientation).quantize(256)
        assert_equal(decoded(encoded(few, "PNG", exif=exif)), np.asarray(stored_back(few, orientation)))
    else:
        options = {"lossless": True} if form == "WEBP" else {}
        data = encoded(stored, form, exif=exif, **options)
        assert_equal(decoded(data), RGB)
        assert_equal(pixels_of(Image.open(io.BytesIO(data)), maximum_pixels=LIMIT), RGB)


def stored_back(image, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = image.convert("RGB")
    image.info["exif"] = exif.tobytes()
    return ImageOps.exif_transpose(image)


def test_orientation_behind_the_pixels_of_a_png_counts():
    exif = Image.Exif()
    exif[0x0112] = 3
    block = exif.tobytes().removeprefix(b"Exif\0\0")
    data = encoded(Image.fromarray(np.ascontiguousarray(RGB[::-1, ::-1])), "PNG")
    chunk = struct.pack(">I", len(block)) + b"eXIf" + block + struct.pack(">I", zlib.crc32(b"eXIf" + block))
    assert_equal(decoded(data[:-12] + chunk + data[-12:]), RGB)


def test_what_is_behind_a_jpeg_does_not_matter():
    data = encoded(Image.fromarray(RGB), "JPEG")
    assert_equal(decoded(data + bytes(200_000)), decoded(data))


@pytest.mark.parametrize("form", ["JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF"])
@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.9])
def test_a_truncated_file_is_named(form, share):
    data = encoded(Image.fromarray(picture(160, 120)), form)
    with pytest.raises(DataError, match=r"^it: (is truncated|is empty|is a damaged image|is damaged|is not an image)"):
        decoded(data[: int(len(data) * share)])


@pytest.mark.parametrize("data", [b"hello", b"<svg/>", b"%!PS-Adobe-3.0 EPSF-3.0\n", bytes(100)])
def test_what_is_no_image_is_named(data):
    with pytest.raises(DataError, match=r"^it: is not an image in a known format \(JPEG, PNG"):
        decoded(data)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(["JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF"]), st.integers(0, 10**6), st.integers(1, 255))
def test_a_flipped_byte_gives_a_picture_or_one_line(form, place, change):
    data = bytearray(encoded(Image.fromarray(RGB), form))
    data[place % min(len(data), 300)] ^= change
    message = ""
    try:
        message += f"{decoded(bytes(data)).shape}"
    except DataError as error:
        message += str(error)
    assert message.endswith((".", "3)"))
    assert "\n" not in message


def test_numbers_that_are_no_gray_values_are_refused():
    for image in (Image.fromarray(GRAY.astype(np.float32)), Image.fromarray(GRAY.astype(np.int32) * 100_000)):
        with pytest.raises(DataError, match="save it with 8 or 16 bits a channel"):
            decoded(encoded(image, "TIFF"))
        with pytest.raises(DataError, match="save it with 8 or 16 bits a channel"):
            pixels_of(image, maximum_pixels=LIMIT)


def bomb(width=60_000, height=60_000):
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    end = b"\0\0\0\0IEND\xaeB`\x82"
    return b"\x89PNG\r\n\x1a\n\0\0\0\r" + chunk + struct.pack(">I", zlib.crc32(chunk)) + end


def test_a_picture_of_too_many_pixels_is_refused_before_it_is_decoded():
    with pytest.raises(DataError, match=r"it: has 60000 x 60000 = 3600000000 pixels, more than data\.maximum_image"):
        decoded(bomb())
    large = encoded(Image.new("1", (20_000, 20_000)), "TIFF", compression="group4")  # Pillow's own limit is lower
    with pytest.raises(DataError, match="has 20000 x 20000"):
        decoded(large)
    with pytest.raises(DataError, match="The given picture has 48 x 32"):
        pixels_of(Image.fromarray(RGB), maximum_pixels=100)


def test_pillows_own_limit_stays_as_it_was():
    before = Image.MAX_IMAGE_PIXELS
    decoded(encoded(Image.fromarray(RGB), "BMP"))
    assert before == Image.MAX_IMAGE_PIXELS is not None


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_large_jpeg_comes_smaller_but_never_too_small(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(picture(811, 601)), "JPEG", quality=95, exif=exif)
    whole = decoded(data)
    for asked, shorter in ((None, 601), (301, 601), (300, 301), (150, 151), (75, 76), (10, 76)):
        small = decoded(data, short_side=asked)
        assert min(small.shape[:2]) == shorter
        expected = resized_to(whole, small.shape[1], small.shape[0])
        assert np.abs(small.astype(float) - expected).mean() < 3


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 3000))
def test_reduction_leaves_what_is_asked(width, height, asked):
    factor = reduction(width, height, asked)
    assert factor == 1 or min(width, height) / factor >= asked


def test_reading_names_the_file_without_secrets(tmp_path):
    file = tmp_path / "a.jpg"
    file.write_bytes(b"nonsense")
    with pytest.raises(DataError, match=f"^{file}: is not an image"):
        read_image(f"file://{file}", maximum_pixels=LIMIT)


# Resizing


def coordinates(width, height):
    """Red is x, green is y, as shares of 200."""
    x, y = np.meshgrid(np.linspace(0, 200, width), np.linspace(0, 200, height))
    return np.dstack([x, y, x * 0]).astype(np.uint8)


@pytest.mark.parametrize(
    ("width", "height"), [(400, 200), (200, 400), (37, 500), (256, 256), (20, 30), (1, 1), (3, 900)]
)
def test_centre_crop_is_the_middle_at_the_right_scale(width, height):
    result = CenterCrop(resize=256, size=224)(coordinates(width, height))
    assert result.shape == (224, 224, 3)
    if min(width, height) > 100:
        assert np.abs(result[112, 112, :2].astype(int) - 100).max() <= 2
        covered = 200 * 224 / (256 * width / min(width, height))
        assert abs((int(result[112, -1, 0]) - int(result[112, 0, 0])) - covered) <= 3


def test_a_crop_larger_than_the_resized_picture_takes_the_whole_short_side():
    result = CenterCrop(resize=100, size=224)(coordinates(300, 200))
    assert result.shape == (224, 224, 3)
    assert result[0, 112, 1] <= 2
    assert result[-1, 112, 1] >= 198


@pytest.mark.parametrize(("width", "height"), [(400, 200), (200, 400), (100, 100), (1, 1000), (33, 32)])
def test_letterbox_keeps_the_whole_picture_and_its_shape(width, height):
    box = Letterbox(size=128, fill=7)
    result = box(np.full((height, width, 3), 250, np.uint8))
    assert result.shape == (128, 128, 3)
    inside = (result == 250).all(axis=2)
    assert ((result == 7).all(axis=2) | inside).all()
    rows, columns = inside.any(axis=1), inside.any(axis=0)
    scale = 128 / max(width, height)
    assert (columns.sum(), rows.sum()) == (max(round(width * scale), 1), max(round(height * scale), 1))
    assert abs(int(rows.argmax()) - int(rows[::-1].argmax())) <= 1
    assert abs(int(columns.argmax()) - int(columns[::-1].argmax())) <= 1


def test_fine_stripes_turn_gray_when_they_become_small():
    stripes = np.zeros((400, 400, 3), np.uint8)
    stripes[:, ::2] = 255
    assert np.abs(resized_to(stripes, 80, 80).astype(int) - 127).max() <= 52


@pytest.mark.parametrize("resize", ["crop", "letterbox"])
def test_a_resizing_survives_its_settings(resize):
    training = TrainingConfig(validation_resize_size=90, validation_crop_size=80)
    resizing = resizing_of(AugmentConfig(resize=resize, fill=3), training)
    restored = resizing_from_settings({**resizing.as_settings(), "other": 1}, source="settings.json")
    assert restored == resizing
    assert (restored(RGB) == resizing(RGB)).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"resize": "stretch"},
            r"resize='stretch' is not known\. It must be crop, letterbox, short_side or long_side\."
            r" The numbers that are there suit resize='crop'\.$",
        ),
        (
            {"resize": "short_side"},
            r"resize='short_side' needs min_size, which is missing\. Give it, or another resize\."
            r" The numbers that are there suit resize='crop'\.$",
        ),
        ({"resize": "short_side", "min_size": 600}, "resize='short_side' needs max_size, which is missing"),
        ({"resize": "long_side"}, "resize='long_side' needs img_size, which is missing"),
        ({"resize": "letterbox", "fill": 256}, r"fill=256 must be an integer in \[0, 255\]"),
        ({"valid_crop_size": "80"}, "must be an integer"),
        ({"valid_crop_size": None}, "valid_crop_size=null must be an integer"),
        (
            {"resize": "short_side", "min_size": 9, "max_size": 8},
            "min_size=9 is more than max_size=8",
        ),
        ({"validation_crop_size": 9}, "differ. Keep one"),
        ({"valid_crop_size": [80], "validation_crop_size": 9}, "differ. Keep one"),
    ],
)
def test_settings_that_are_not_understood_are_refused(change, message):
    with pytest.raises(ConfigError, match=f"^settings.json: .*{message}"):
        resizing_from_settings({**CenterCrop().as_settings(), **change}, source="settings.json")


@pytest.mark.parametrize("kind", [CenterCrop(), Letterbox(), ShortSide(), LongSide()])
def test_settings_without_their_resize_are_told_which_they_suit(kind):
    settings = {name: value for name, value in kind.as_settings().items() if name != "resize"}
    with pytest.raises(ConfigError, match=f"^settings.json: resize is missing.* suit resize='{kind.name}'"):
        resizing_from_settings(settings, source="settings.json")


def test_settings_without_any_number_suit_nothing():
    with pytest.raises(ConfigError, match=r"^settings.json: resize='crop' needs valid_resize_size,.* resize\.$"):
        resizing_from_settings({"resize": "crop"}, source="settings.json")


def test_settings_may_be_spelt_as_the_configuration_spells_them():
    settings = {"resize": "crop", "validation_resize_size": 90, "validation_crop_size": 80}
    assert resizing_from_settings(settings, source="settings.json") == CenterCrop(resize=90, size=80)
