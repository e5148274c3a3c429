"""English words that phrases about the camera and about objects share: names of things, and amounts."""

from __future__ import annotations

import re

SIDE = r"(?P<side>left|right)(?:[- ]hand)?"
SCENE = (
    r"(?:it|this|that|them|everything|things|us|me|the (?:whole )?(?:scene|image|picture|"
    r"photo|shot|object|subject|room"
    r"|thing|view|composition)|this (?:scene|image|picture|photo|shot|object|thing|view))"
)
# One to four words that name an object; words that belong to another instruction end it.
_NOT_NAME = (
    r"(?:to|from|into|onto|in|on|at|with|and|so|that|which|while|make|turn|change|add|"
    r"remove|style|of|is|are|be|by|a"
    r"|next|over|away|behind|above|below|under|underneath|beneath|beside|near|toward|towards|"
    r"against|between|among|around"
    r"|round|across|inside|outside|along|up|down|off|out|closer|nearer|should|must|has|"
    r"needs|face|faces|facing|point|points"
    r"|look|looks|until|until|further|farther|aside|forward|forwards|backward|backwards|higher|lower)"
)
NAME = rf"(?:(?!{_NOT_NAME}\b)[\w'’-]+)(?: (?!{_NOT_NAME}\b)[\w'’-]+){{0,3}}"
THING = rf"(?P<object>it|(?:the|this|that|my|our|his|her|their|its|a|an) {NAME}|{NAME})"
NAMED = rf"(?:(?:the|this|that|my|our|a|an) )?{NAME}"
_SMALL = re.compile(
    r",? *\b(?:just )?(?:a (?:little|tiny)(?: bit)?|a (?:small |tiny )?(?:bit|touch|"
    r"tad)|slightly|somewhat|gently"
    r"|ever so slightly)\b(?: more)?",
    re.I,
)
MANNER = re.compile(r"\b(?:quickly|slowly|gently|smoothly|carefully|all the way)\b", re.I)
_LARGE = re.compile(
    r",? *\b(?:a lot|all the way|completely|fully|directly)\b(?= (?:in|out|closer"
    r"|farther|further|back|from|above|below|behind|overhead|to)\b|$)",
    re.I,
)
_FAR = re.compile(
    r"\b(?:way|much|far|a lot) (?=in\b|out\b|closer|nearer|farther|further|back\b|higher|lower)", re.I
)
_DEGREES = re.compile(
    r",? *\b(?:by |through |about |around |at |at an angle of |roughly )*(\d{1,3}(?:\.\d+)?) ?(?:°|-?degrees?\b|deg\b)",
    re.I,
)


def strip_amount(clause: str) -> tuple[str, bool]:
    """Return a clause without words such as "a little", and whether they ask for a small amount."""
    text, count = _SMALL.subn("", clause)
    return _FAR.sub("", _LARGE.sub("", text)), count > 0


def strip_degrees(text: str) -> tuple[str, float | None]:
    """Return a text without its angle, and the angle in degrees; None where it has none."""
    found = _DEGREES.search(text)
    if found is None:
        return text, None
    return text[: found.start()] + text[found.end() :], float(found[1])


def tidy_spaces(text: str) -> str:
    """Return a text with single spaces, and without spaces, commas and full stops at its ends."""
    return " ".join(text.split()).strip(" ,.")
