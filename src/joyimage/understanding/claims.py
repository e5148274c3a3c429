"""What an instruction claims of the result: which objects must be there afterwards, and which must not."""

from __future__ import annotations

import re
from dataclasses import dataclass

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


@dataclass(frozen=True)
class Claim:
    """One claim.

    Attributes:
        name: Name of an object.
        is_there: Whether it must be in the result.
    """

    name: str
    is_there: bool


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
    return [Claim(found[name], name == "new") for name in ("new", "gone") if found.get(name)]
