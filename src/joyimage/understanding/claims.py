"""What an instruction claims of the result: which objects must be there afterwards, where, and which must not."""

from __future__ import annotations

import re
from dataclasses import dataclass

_AT = r"(?:at|in|on) the (?:top|bottom|left|right|center|middle)(?: left| right)?"
_NAME = r"(?:the |a |an )?(?P<{}>[\w -]{{2,40}}?)"
_PLACE = r"(?: (?:in|at|on|to|from|next|near|under|above|below|behind|beside)\b.*)?"
_REMOVE = re.compile(rf"(?:remove|delete|erase) {_NAME.format('gone')}{_PLACE}\.?", re.IGNORECASE)
_ADD = re.compile(rf"(?:add|draw|(?:put|place) (?=an? )) ?{_NAME.format('new')}{_PLACE}\.?", re.IGNORECASE)
_REPLACE = re.compile(
    rf"(?:replace|swap|turn|change) {_NAME.format('gone')} (?:with|by|for|into) (?=an? )"
    rf"{_NAME.format('new')}{_PLACE}\.?",
    re.IGNORECASE,
)
_COLORS = "red|orange|yellow|green|cyan|blue|purple|pink|brown|black|white|gray|golden|silver"
_RECOLOR = re.compile(
    rf"(?:recolor|paint|color|make|turn|dye|change the colou?r of) "
    rf"{_NAME.format('old')} (?:to |in )?(?P<color>{_COLORS})\.?",
    re.IGNORECASE,
)
# What is named thus is the image itself, or what was named before.
_WHOLE = re.compile(
    r"(?:it|its|this|that|these|those|them|everything|all|image|pic\w*|photo\w*|scene|background)\b",
    re.IGNORECASE,
)
_DRAW = re.compile(
    r"(?:please )?(?:(?:draw|paint|sketch|create|make|generate|show)(?: me)? )?", re.IGNORECASE
)
_GROUND = re.compile(r" on an? ([\w -]{2,30}?) background$", re.IGNORECASE)
_DRAWN = re.compile(
    rf"(?:an?|one|the) (?P<name>(?!(?:at|in|on|of|with) )[\w-]+(?: (?!(?:at|in|on|of|with)\b)[\w-]+){{0,3}})"
    rf"(?: (?P<place>{_AT}))?",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Claim:
    """One claim.

    Attributes:
        name: Name of an object.
        is_there: Whether it must be in the result.
        place: Where, such as "at the top left"; None where nothing is said.
    """

    name: str
    is_there: bool
    place: str | None = None


@dataclass(frozen=True)
class DrawingClaims:
    """What a prompt claims of an image that is made from text alone.

    Attributes:
        objects: The objects, all that there are to be.
        background: Color of the background; None where nothing is said.
    """

    objects: tuple[Claim, ...]
    background: str | None


def claims_of(instruction: str) -> list[Claim]:
    """Return the claims of an instruction; none where its form is not known."""
    text = instruction.strip()
    recolored = _RECOLOR.fullmatch(text)
    if recolored is not None:
        old = recolored["old"].lower()
        kind = re.sub(rf"^(?:{_COLORS}) ", "", old)
        new = f"{recolored['color'].lower()} {kind}"
        return [Claim(new, True), *([Claim(old, False)] if old not in {kind, new} else [])]
    match = _REMOVE.fullmatch(text) or _ADD.fullmatch(text) or _REPLACE.fullmatch(text)
    if match is None:
        return []
    found = match.groupdict()
    place = re.search(rf" ({_AT})\.?$", text, re.IGNORECASE) if set(found) == {"new"} else None
    return [
        Claim(found[name], name == "new", place[1].lower() if place else None)
        for name in ("new", "gone")
        if found.get(name)
    ]


def objects_before(instruction: str) -> list[str]:
    """Return the objects that an instruction needs in the image before the edit; none where its form is not known."""
    text = instruction.strip()
    match = _RECOLOR.fullmatch(text) or _REMOVE.fullmatch(text) or _REPLACE.fullmatch(text)
    if match is None:
        return []
    found = match.groupdict()
    name = str(found.get("old") or found.get("gone")).lower()
    return [] if _WHOLE.match(name) else [name]


def drawing_claims_of(prompt: str) -> DrawingClaims | None:
    """Return the claims of a prompt that lists objects; None where any part of it says something else."""
    text = " ".join(prompt.split()).rstrip(".")
    text = text[_DRAW.match(text).end() :]  # type: ignore[union-attr]  # matches nothing, too
    ground = _GROUND.search(text)
    listed = text if ground is None else text[: ground.start()]
    objects: list[Claim] = []
    for part in re.split(r",? and |, ", listed):
        match = _DRAWN.fullmatch(part)
        if match is None:
            return None
        objects.append(Claim(match["name"].lower(), True, match["place"] and match["place"].lower()))
    return DrawingClaims(tuple(objects), None if ground is None else ground[1].lower())
