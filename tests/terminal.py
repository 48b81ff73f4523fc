"""A terminal of so many columns, and what is to be seen on it."""

import fcntl
import os
import pty
import re
import struct
import termios
import threading

_CODE = re.compile(r"\x1b\[(\d*)([A-Za-z])")


class Terminal:
    """``stream`` is what a program writes to; ``lines`` are those of the screen and all that has scrolled away."""

    def __init__(self, columns=80, height=24):
        self.columns, self._read = columns, b""
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", height, columns, 0, 0))
        self.stream = os.fdopen(theirs, "w", encoding="utf-8")
        self._reader = threading.Thread(target=self._keep_reading, daemon=True)
        self._reader.start()

    def close(self):
        """After that everything was read."""
        self.stream.close()
        self._reader.join(10)
        os.close(self._ours)

    def _keep_reading(self):
        try:
            while chunk := os.read(self._ours, 1 << 16):
                self._read += chunk
        except OSError:  # how Linux says that the other end is closed
            pass

    @property
    def text(self):
        return self._read.decode("utf-8", errors="replace")

    def lines(self):
        """Knows the two codes that it should meet, and fails on any other."""
        return seen(self.text, self.columns)


def seen(text, columns):
    lines, row, column, place = [""], 0, 0, 0
    while place < len(text):
        code = _CODE.match(text, place)
        if code:
            match code.groups():
                case (count, "F"):
                    row, column = row - int(count), 0
                    assert row >= 0, "above the first line"
                case ("", "J"):
                    lines[row:] = [lines[row][:column]]
                case other:
                    raise AssertionError(f"an unknown code: {other}")
            place = code.end()
            continue
        letter, place = text[place], place + 1
        assert letter != "\x1b"
        if letter == "\r":
            column = 0
        elif letter == "\n" or column == columns:
            row, column = row + 1, 0
        if row == len(lines):
            lines.append("")
        if letter not in "\r\n":
            lines[row] = lines[row][:column].ljust(column) + letter + lines[row][column + 1 :]
            column += 1
    return lines
