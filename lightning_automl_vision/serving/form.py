"""The files of a ``multipart/form-data`` body that lies in memory; nothing is written to disk."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from lightning_automl_vision.serving.refusals import Refused, quoted

logging.getLogger("python_multipart").setLevel(logging.ERROR)  # whoever sent a damaged form is told


def files_of_form(body: bytes, content_type: str, most: int) -> list[bytes]:
    """The content of each file in order, whatever its field is called; Refused if it is no form of files."""
    _, options = parse_options_header(content_type)
    boundary = options.get(b"boundary", b"")
    if not boundary:
        raise Refused(400, "The form has no boundary: Content-Type must be multipart/form-data; boundary=...")
    reading = _Reading(most=most)
    try:
        parser = MultipartParser(
            boundary,
            {
                "on_part_begin": reading.begin,
                "on_header_field": reading.header_name,
                "on_header_value": reading.header_value,
                "on_header_end": reading.header_end,
                "on_part_data": reading.data,
                "on_part_end": reading.end,
                "on_end": reading.end_of_form,
            },
        )
        parser.write(body)
        parser.finalize()
    except FormParserError:
        raise Refused(400, "The form is damaged: it is not multipart/form-data.") from None
    if not reading.whole:
        raise Refused(400, "The form is damaged: its end is missing.")
    if not reading.files:
        raise Refused(400, "The form has no file. Send each picture as one: curl -F image=@photo.jpg.")
    return reading.files


@dataclass(kw_only=True)
class _Reading:
    """What the parser has seen so far."""

    most: int
    files: list[bytes] = field(default_factory=list)
    whole: bool = False
    _header: bytearray = field(default_factory=bytearray)
    _value: bytearray = field(default_factory=bytearray)
    _disposition: bytes = b""
    _content: bytearray = field(default_factory=bytearray)

    def begin(self) -> None:
        self._disposition, self._content = b"", bytearray()

    def header_name(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = bytes(self._value)
        self._header, self._value = bytearray(), bytearray()

    def data(self, data: bytes, start: int, end: int) -> None:
        self._content += data[start:end]

    def end(self) -> None:
        _, options = parse_options_header(self._disposition.decode("latin-1"))
        if b"filename" not in options:
            name = options.get(b"name", b"").decode("utf-8", "replace")
            raise Refused(400, f"The form's field {quoted(name)} is no file. Send files alone: -F image=@photo.jpg.")
        if len(self.files) == self.most:
            raise Refused(413, f"The form has more than {self.most} pictures, the most of a request.")
        self.files.append(bytes(self._content))

    def end_of_form(self) -> None:
        self.whole = True
