"""English sentences that ask for a move, a rotation or a camera move."""

from __future__ import annotations

import re

from joyimage.understanding.phrases.english_camera import turns_of
from joyimage.understanding.phrases.english_objects import move_of, rotation_of

__all__ = ["clauses_of", "move_of", "rotation_of", "tidy", "turns_of"]

_POLITE = re.compile(
    r"^(?:(?:please|now|ok(?:ay)?|hey|just|then|also|so|next|finally|instead)\b[, ]*"
    r"|(?:can|could|would|will) (?:you|we|i) (?:please )?|i(?:'d| would) like (?:you )?to "
    r"|i(?:'d| would) (?:like|love|prefer)(?: (?:you )?to)? |i(?:'d| would) rather (?:you )?|i want (?:you )?to "
    r"|i want |i need (?:you )?to |i need |let'?s |let me |let us |help me |try to |give "
    r"me |give us |how about )+",
    re.I,
)
_POLITE_END = re.compile(
    r"[ ,]*\b(?:please|for me|for us|thanks|thank you|instead|now|if you can|again)$", re.I
)


def tidy(text: str) -> str:
    """Return a sentence without what is polite, and without its last full stop."""
    text = " ".join(text.replace("’", "'").split()).strip(" .!?;:,\"'")
    text = _POLITE.sub("", text)
    before = None
    while before != text:
        before, text = text, _POLITE_END.sub("", text).strip(" .!?;:,")
    return text


def clauses_of(text: str) -> list[str]:
    """Split a sentence where one request ends and the next begins."""
    parts = re.split(
        r"\s*(?:,| and then | then |;| and (?=(?:zoom|look|move|pan|raise|lower|orbit|from|turn|rotate|closer|show|view|a |also|tilt|push|pull|slightly)))\s*",
        text,
        flags=re.I,
    )
    return [
        part for part in (tidy(re.sub(r"^(?:and|but|then)\s+", "", one, flags=re.I)) for one in parts) if part
    ]
