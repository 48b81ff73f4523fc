"""From the body of a request to its pictures, in every documented form: JSON with base64, files of a form, raw bytes.

What is wrong with a request's form refuses it whole; what is wrong with one picture is that picture's answer.
"""

from __future__ import annotations

import binascii
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from lightning_automl_vision.data.encoded import PictureFault, describe
from lightning_automl_vision.errors import DataError
from lightning_automl_vision.log import LOG
from lightning_automl_vision.serving.explanations import check_explanation
from lightning_automl_vision.serving.refusals import Refused, quoted

T = TypeVar("T")

_EXAMPLE = '{"input_data": {"columns": ["image"], "data": ["BASE64"]}}'
_URL = re.compile(r"\s*[A-Za-z][A-Za-z0-9+.-]*:")
_NO_URLS = "this server fetches nothing from elsewhere. Send the picture itself, as base64"
_ITEM_KEYS = ("image_base64", "model_explainability", "xai_parameters")


@dataclass(frozen=True, slots=True)
class Encoded:
    """A picture as it was sent, whose header was read."""

    content: bytes
    pixels: int


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a picture has no answer, as a sentence."""

    reason: str


Content = Encoded | Fault


@dataclass(frozen=True, kw_only=True)
class ContentLimits:
    images: int
    pixels: int


def pictures_in(body: bytes, content_type: str, limits: ContentLimits, *, classifies: bool) -> list[Content]:
    """The pictures of a request in order; Refused if it is none."""
    kind = content_type.partition(";")[0].strip().lower()
    if not body:
        raise Refused(400, f"The body is empty. Send pictures, or {_EXAMPLE}.")
    if kind == "multipart/form-data":
        from lightning_automl_vision.serving.form import files_of_form  # which a server alone has the package for

        return [_described(file, limits) for file in files_of_form(body, content_type, limits.images)]
    if kind == "application/json" or kind.endswith("+json") or (_may_be_any(kind) and _looks_like_json(body)):
        items = _items(body, limits.images)
        return [_content(item, f"data[{index}]", limits, classifies) for index, item in enumerate(items)]
    if kind.startswith("image/") or kind == "application/octet-stream" or _may_be_any(kind):
        return [_described(body, limits)]
    raise Refused(
        415, f"Content-Type {quoted(kind)} is not read. Send application/json, multipart/form-data or image/*."
    )


def _may_be_any(kind: str) -> bool:
    """What clients say who do not say it, such as curl."""
    return kind in ("", "text/plain", "application/x-www-form-urlencoded")


def _looks_like_json(body: bytes) -> bool:
    return body[:64].lstrip(b"\xef\xbb\xbf \t\r\n")[:1] in (b"{", b"[")


def _items(body: bytes, most: int) -> list[Any]:
    document = parsed(body, "The body")
    data = document.get("input_data") if isinstance(document, dict) else None
    if not isinstance(document, dict) or not isinstance(data, dict) or set(document) != {"input_data"}:
        raise Refused(400, f"The body must be an object with input_data alone: {_EXAMPLE}.")
    for name in data:
        if name not in ("columns", "index", "data"):
            raise Refused(400, f"input_data has no {quoted(name)}. It has columns, index and data: {_EXAMPLE}.")
    items = data.get("data")
    if not isinstance(items, list) or not items:
        raise Refused(400, f"input_data.data must be a list with a picture at least: {_EXAMPLE}.")
    if len(items) > most:
        raise Refused(413, f"input_data.data has {len(items)} pictures, {most} are the most of a request.")
    if data.get("columns", ["image"]) != ["image"]:
        raise Refused(400, f'input_data.columns={quoted(data["columns"])} must be ["image"].')
    index = data.get("index", items)
    if not isinstance(index, list) or len(index) != len(items):
        raise Refused(400, f"input_data.index must be a list as long as input_data.data, which has {len(items)}.")
    if "index" in data and not all(isinstance(name, (int, str)) for name in index):
        raise Refused(400, "input_data.index must be a list of integers or texts.")
    return items


def parsed(text: bytes | str, place: str) -> Any:
    """What JSON says; ``place`` is what a refusal calls it."""
    try:
        return json.loads(text)
    except RecursionError:
        raise Refused(400, f"{place} is JSON that is nested too deeply.") from None
    except ValueError as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else "it is no text, or a number is too long"
        raise Refused(400, f"{place} is not JSON: {reason}.") from None


def _content(item: Any, place: str, limits: ContentLimits, classifies: bool) -> Content:
    content = decoded(item, place, classifies=classifies)
    return content if isinstance(content, Fault) else _described(content, limits)


def decoded(item: Any, place: str, *, classifies: bool) -> bytes | Fault:
    """The picture of an item: base64, or JSON with it; Refused where the item is of no such form."""
    if isinstance(item, list) and len(item) == 1:  # a row of the one column
        (item,) = item
    if isinstance(item, str) and item[:64].lstrip()[:1] == "{":
        item = parsed(item, place)
    text = _base64_of(item, place, classifies) if isinstance(item, dict) else item
    if not isinstance(text, str):
        raise Refused(400, f"{place} must be a text: base64, or JSON with image_base64.")
    if _URL.match(text[:64]):
        raise Refused(400, f"{place} is a URL: {_NO_URLS}.")
    try:
        return binascii.a2b_base64("".join(text.split()), strict_mode=True)
    except ValueError:
        return Fault("The picture is not base64.")


def _base64_of(item: dict[str, Any], place: str, classifies: bool) -> Any:
    """What else stands there is checked."""
    if "image_url" in item:
        raise Refused(400, f"{place} has an image_url: {_NO_URLS} in image_base64.")
    for name in item:
        if name not in _ITEM_KEYS:
            raise Refused(400, f"{place} has no {quoted(name)}. There are {', '.join(_ITEM_KEYS)}.")
    if not isinstance(item.get("image_base64"), str):
        raise Refused(400, f"{place}.image_base64 must be a text: the picture in base64.")
    wanted, parameters = item.get("model_explainability", False), item.get("xai_parameters", {})
    check_explanation(wanted, parameters, place=place, classifies=classifies)
    return item["image_base64"]


def _described(content: bytes, limits: ContentLimits) -> Content:
    """With the number of its pixels, which says how much memory it takes."""
    encoded = safely(lambda: describe(content))
    if isinstance(encoded, Fault):
        return encoded
    width, height = encoded.displayed
    if width * height > limits.pixels:
        return Fault(f"The picture has {width} x {height} pixels, and {limits.pixels} in all are the most.")
    return Encoded(content, width * height)


def safely(read: Callable[[], T]) -> T | Fault:
    """What reading a picture gives, or what is wrong with it: decoders raise what they like on what strangers send."""
    try:
        return read()
    except (PictureFault, DataError) as error:
        reason = str(error).removeprefix("the given bytes: ").rstrip(".")
        return Fault(f"The picture {reason}.")
    except Exception as error:
        LOG.warning("A picture could not be decoded: %s", type(error).__name__)
        return Fault("The picture cannot be decoded.")
