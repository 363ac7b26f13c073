"""Text for a terminal: what comes from names and files can neither command it nor show a secret."""

import re
import sys
from typing import TextIO

from grow.common.redact import without_secrets

_COMMANDS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters but tab and newline: ESC opens sequences, \r goes back
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # turn the direction of the text that follows
    "\u2028\u2029\ud800-\udfff\ufff9-\ufffb\U000e0000-\U000e007f]"  # separate lines, annotate, or show nothing
)


def printable(text: str) -> str:
    """Return text with the characters that command a terminal spelled out, as in \\x1b."""
    return _COMMANDS.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def say(*texts: object, file: TextIO | None = None) -> None:
    """Print texts on one line, without secrets and without characters that command a terminal.

    Args:
        texts: What is printed, with spaces between.
        file: Standard output if None.
    """
    line = printable(without_secrets(" ".join(map(str, texts))))
    print(line, file=file or sys.stdout, flush=True)
