"""English phrases that ask for the rotation or the move of an object."""

from __future__ import annotations

import re
from functools import cache

from joyimage.edits import Move, Rotate
from joyimage.understanding.phrases.english_words import MANNER, NAME, THING, strip_amount, tidy_spaces

_TURN = r"(?:turn|rotate|spin|swivel|pivot|twist|flip|revolve|swing|orient|reorient|re-orient|point|angle)"
_FACE = r"(?:face|point|look|be facing|be turned|be pointing|facing|pointing|looking|faces|points|looks)"
_US = (
    r"(?:us|me|the (?:camera|viewer|front|observer|lens|screen|audience)|you|forwards?|"
    r"straight at us|this way|towards? (?:us|me|the (?:camera|viewer)))"
)
_AWAY = (
    r"(?:the other way|away(?: from (?:us|me|the (?:camera|viewer)))?|backwards?|the (?:back|"
    r"rear|other way|opposite (?:way|direction)|background|wall)|the other way|back|in "
    r"the opposite direction|the other direction)"
)
_CORNER = (
    r"(?P<corner>(?:front|rear|back)[- ](?:left|right)|(?:left|right)[- ](?:front|rear|"
    r"back)|(?:front|rear|back) and (?:left|right))"
)
_VIEWED = (
    rf"(?:the |its |a |her |his |their |it'?s )?(?:{_CORNER}|(?P<front>front|face)|(?P<rear>back|"
    rf"rear|backside|back side|behind|tail|reverse|other side|opposite side)|(?P<side>left|"
    rf"right))"
    r"(?:[- ]hand)?(?: ?-?side| end| part)?(?: view)?"
)
_HEADING = (
    rf"(?:(?:to |toward |towards |at )?(?:the )?(?:{_CORNER}|(?P<side>left|right))(?:[- "
    rf"]hand)?(?: side| edge)?(?: of the (?:image|picture|frame|photo|screen))?|(?:to |"
    rf"toward |towards |at |into )?(?P<front>{_US})|(?:to |toward |towards |at )?(?P<rear>{_AWAY})"
    rf")"
)
_FRONT_PART = r"(?:front|nose|face|bow|hood|bonnet|head|snout|beak|grille|windshield)"
_OWNED = rf"(?P<object>(?:the|my|our|this|that) {NAME})['’]s"
_TOWARD_US = r"(?:to|toward|towards|at|facing|pointing (?:to|at|toward|towards)) (?:us|me|you|the (?:camera|viewer|front))"
_ROTATE_CLAUSES = (
    rf"(?:(?:i )?(?:want|need|have|get|put|turn|rotate|make|with) )?{_OWNED} (?:(?P<front>{_FRONT_PART})|(?P<rear>back|"
    rf"rear|tail|stern)|(?P<side>left|right)(?: side)?) (?:to be |turned )?{_TOWARD_US}",
    rf"(?:have|let|make|get|turn|rotate) {_OWNED} {_FRONT_PART} (?:to )?{_FACE} {_HEADING}",
    rf"{_TURN} {THING} (?:around |round )?so (?:that )?(?:we|i|you) (?:can |could )?(?:see|look at|view) (?:it|him|her|them) "
    rf"from {_VIEWED}",
    rf"{_TURN} {THING} (?:around |round )?(?:so (?:that )?(?:we|i|you|one) (?:can |could "
    rf")?(?:only )?(?:see|look at|are looking at|view)|to (?:show|see|reveal|display|expose)"
    rf"|so (?:that )?(?:it|he|she|they) (?:shows?|reveals?)|and show|until (?:we|i) (?:can "
    rf")?see|showing|revealing) (?:us |me )?{_VIEWED}(?: of (?:it|the .{{1,30}}))?",
    rf"{_TURN} {THING} (?:around |round )?so (?:that )?(?:the |its |his |her |their )?(?:{_CORNER}|"
    rf"(?P<front>front|face)|(?P<rear>back|rear|tail)|(?P<side>left|right))(?: side| end)? "
    rf"(?:is |are )?(?:visible|showing|shows|seen|facing (?:us|me|the (?:camera|viewer)"
    rf")|faces (?:us|me|the (?:camera|viewer))|toward us|towards us|to us|points at us)",
    rf"{_TURN} {THING} (?:around |round )?(?:so (?:that )?)?(?:it |he |she |they |it's "
    rf"|(?:its|his|her|the) {_FRONT_PART} )?(?:is |are |to |so as to )?(?:be "
    rf")?{_FACE} {_HEADING}",
    rf"{_TURN} {THING} (?:around |round )?(?:to |toward |towards |onto |into )(?:the |its |a )?{_VIEWED}",
    rf"{_TURN} {THING} (?:around |round )?{_HEADING}",
    rf"{_TURN} {THING} (?P<rear>(?:all the way |completely |fully )?(?:around|round|back "
    rf"to front|180 degrees|180°|by 180 degrees|by 180°|backwards|half a turn|half way "
    rf"around|halfway around))",
    rf"(?:make|have|let|get) {THING} (?:to )?{_FACE} {_HEADING}",
    rf"(?:make|have|let|get) {THING} (?:turn|rotate|spin) (?:around )?(?:and face |to face )?{_HEADING}",
    rf"(?:make|have|let|get) {THING} (?:turn|rotate|spin) (?P<rear>around)",
    rf"(?:make|have|let) {THING} (?:show|present) {_VIEWED}",
    rf"{THING} (?:should|to|must|has to) (?:be )?{_FACE} {_HEADING}",
    rf"face {THING} {_HEADING}",
    r"(?:show|see|view) (?:us |me )?(?P<object>)(?:the |its )(?P<side>left|right)(?:[- ]hand)? side",
    rf"(?:show|see|view|reveal|display|let me see|let us see|look at) (?:us |me )?(?:the "
    rf"|its )?(?:{_CORNER}|(?P<front>front|face)|(?P<rear>back|rear|backside|back side|"
    rf"tail|other side|reverse side|reverse|far side)|(?P<side>left|right)(?= side))(?: "
    rf"side| end| view)?(?: of {THING})",
    rf"(?:show|see|view|reveal|display) (?:us |me )?(?P<object>(?:the|my|this|that) {NAME})"
    rf"['’]s (?:{_CORNER}|(?P<front>front|face)|(?P<rear>back|rear|tail|backside|other "
    rf"side)|(?P<side>left|right)(?= side))(?: side| end| view)?",
)

_MOVE_VERB = (
    r"(?:move|shift|drag|slide|relocate|reposition|bring|push|pull|carry|transfer|nudge|"
    r"shove|transport)"
)
_PUT_VERB = (
    r"(?:put|place|set|position|stick|lay|stand|park|hang|get|rest|pop|plop|drop|tuck|stash|stow|slip)"
)
_DEFINITE = rf"(?P<object>it|(?:the|this|that|my|our|his|her|their) {NAME})"
_WHERE_WORDS = (
    r"(?:to|onto|on|into|in|inside|at|by|beside|behind|under|underneath|beneath|below|"
    r"above|over|near|next to|close to|closer to|nearer to|in front of|on top of|between|"
    r"among|"
    r"toward|towards|across|against|along|from|away from|left of|right of|to the left "
    r"of|to the right of|up|down|off|out of|around|opposite|outside)"
)
_PLACE_WORD = r"(?:left|right|top|bottom|upper|lower|center|centre|middle|corner|edge|side|foreground|background|front|back|up|down|here|there|higher|lower|closer|farther|further|forwards?|backwards?|leftwards?|rightwards?|upwards?|downwards?|aside|away|over|elsewhere)"  # codespell:ignore centre
_MOVE_CLAUSES = (
    rf"{_MOVE_VERB} {_DEFINITE} (?:(?:a bit|over|further|farther|more|all the way|slightly|"
    rf"across|right|just|back|down|up) )*{_WHERE_WORDS} (?P<where>.{{1,80}})",
    rf"{_MOVE_VERB} {_DEFINITE} (?:(?:a bit|over|further|farther|more|all the way|slightly|"
    rf"much) )*(?P<where>{_PLACE_WORD})",
    rf"{_PUT_VERB} {_DEFINITE} (?:(?:over|further|farther|more|back|down|up|right|just|"
    rf"away) )*{_WHERE_WORDS} (?P<where>(?:the|this|that|its|his|her|my|our|their|it|him|"
    rf"them|left|right|top|bottom|center|middle) ?.{{0,80}})",
    rf"{_PUT_VERB} {_DEFINITE} (?:(?:over|further|farther|more|a bit) )*(?P<where>{_PLACE_WORD}|"
    rf"in front|on top|in the (?:front|back))",
    rf"(?:take|grab|pick up|get|lift) {_DEFINITE} and (?:put|place|set|move|lay) it {_WHERE_WORDS} "
    rf"(?P<where>(?:the|this|that|its) .{{1,80}})",
    rf"(?:have |make |get )?{_DEFINITE} (?:be |to be |moved |placed |put |go )+(?:over "
    rf")?{_WHERE_WORDS} (?P<where>(?:the|this|that|its) .{{1,80}})",
    rf"(?:could|can|may|might|should) {_DEFINITE} (?:be |go |move |stand |sit |come |moved |placed |put )+(?:over )?"
    rf"{_WHERE_WORDS} (?P<where>(?:the|this|that|its) .{{1,80}})",
    rf"(?:change|adjust) the (?:position|place|location) of {_DEFINITE}(?P<where>)(?: to .{{1,80}})?",
    rf"{_DEFINITE} (?:should|must|has to|needs to) (?:be |go |move |stand |sit )+(?:over "
    rf")?{_WHERE_WORDS} (?P<where>(?:the|this|that|its) .{{1,80}})",
)
# What is no object in the image, or whose place is a matter of style, time or text.
_NO_OBJECT = re.compile(
    r"\b(?:camera|viewpoint|view|scene|season|time|setting|location|background|style|mood|"
    r"image|picture|photo|photograph|text|words?|caption|title|"
    r"colou?rs?|lights?|lighting|light source|contrast|brightness|saturation|temperature|weather|era|hair|head|eyes?|gaze|smile|mouth|hands?|arms?|legs?|sleeves?|"  # codespell:ignore colou
    r"horizon|perspective|focus|page|frame|canvas|volume|mood|atmosphere|expression|face|"
    r"letters?|font|whole thing|shadows?|curtains?|blinds?|door|window|story|action|party|"
    r"date|season|year)s?$",
    re.I,
)
_NO_PLACE = re.compile(
    r"\b(?:style|mode|mood|color|colour|winter|summer|spring|autumn|fall|night|sunset|sunrise|past|future|"  # codespell:ignore colour
    r"beach|forest|desert|jungle|ocean|moon|mars|space|city|street of|snow|rain|dark|jail|"
    r"movies|spotlight|19\d\d|20\d\d|\d\ds|clothes|costume|uniform|outfit|suit|dress|pose|"
    r"water|fire|flames|shade|style of|manner|spirit)\b"
)
_NEW_PLACE = re.compile(r"^(?:an?|some|another|one|two|three) ", re.I)
_ROTATE_NO_OBJECT = re.compile(
    r"\b(?:camera|viewpoint|view|scene|image|picture|photo|photograph|text|lights?|page|"
    r"head|face|eyes?|gaze|sky|grass|day|night|hands?|"
    r"background|world|everything|perspective|angle|shot|music|volume|season|tide|table around|leaves|water|hair)s?$",
    re.I,
)


def rotation_of(clause: str) -> Rotate | None:
    """Return the rotation that a clause asks for, or None."""
    text = tidy_spaces(MANNER.sub("", strip_amount(clause)[0]))
    for pattern in _compiled()[0]:
        match = pattern.fullmatch(text)
        if match is None:
            continue
        name, view = _name(match["object"]), _view(match.groupdict())
        if _ROTATE_NO_OBJECT.search(name) or view is None:
            return None
        return Rotate(object=name, view=view)
    return None


def move_of(clause: str) -> Move | None:
    """Return the move that a clause asks for, without its box, or None."""
    text = tidy_spaces(strip_amount(clause)[0])
    for pattern in _compiled()[1]:
        match = pattern.fullmatch(text)
        if match is None:
            continue
        name, where = _name(match["object"]), match["where"] or ""
        is_other = _NO_OBJECT.search(name) or _NO_PLACE.search(where.lower()) or _NEW_PLACE.match(where)
        # A name with a capital letter is a place elsewhere: "in front of the Eiffel Tower".
        if is_other or re.search(r"\b[A-Z]", where):
            return None
        return Move(object=name)
    return None


def _view(found: dict[str, str | None]) -> str | None:
    corner = found.get("corner")
    if corner:
        words = set(re.findall(r"[a-z]+", corner.lower()))
        end = "front" if "front" in words else "rear"
        return f"{end} {'left' if 'left' in words else 'right'}"
    if found.get("front"):
        return "front"
    if found.get("rear"):
        return "rear"
    side = found.get("side")
    return side.lower() if side else None


def _name(given: str) -> str:
    """Return the name of an object without its article; "it" is the object in focus."""
    name = re.sub(r"^(?:the|this|that|a|an|my|our|his|her|their|its) ", "", given.strip(), flags=re.I)
    return "object" if name.lower() in {"", "it", "this", "that"} else name


@cache
def _compiled() -> tuple[list[re.Pattern[str]], list[re.Pattern[str]]]:
    """Compile the patterns of rotations and moves, when the first text is read: it takes a while."""
    return (
        [re.compile(pattern, re.I) for pattern in _ROTATE_CLAUSES],
        [re.compile(pattern, re.I) for pattern in _MOVE_CLAUSES],
    )
