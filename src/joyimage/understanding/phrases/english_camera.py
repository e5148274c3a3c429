"""English phrases that ask for a camera move."""

from __future__ import annotations

import re
from functools import cache

from joyimage.understanding.phrases.english_words import (
    MANNER,
    NAMED,
    SCENE,
    SIDE,
    THING,
    strip_amount,
    strip_degrees,
    tidy_spaces,
)
from joyimage.understanding.phrases.turns import Turn, step, view_from

# Why a camera move is asked for, where that says nothing that the move does not.
_PURPOSE = re.compile(
    r" so (?:that )?(?:(?:we|i|you) (?:can |could )?see (?:more|everything|all of it|the (?:whole|entire) .{1,30})"
    r"|.{1,40} (?:fits?(?: in| inside)?|(?:is|are) (?:fully |all )?(?:visible|readable|in (?:the )?(?:frame|view|shot|picture))))$",
    re.I,
)
_CAMERA = (
    r"(?:the |your |my |our )?(?:camera|viewpoint|view point|point of view|viewing angle|"
    r"camera angle|perspective|view|angle|shot|pov|vantage point)"
)

_FROM = (
    rf"(?:from |viewed from |seen from |shot from |taken from |as seen from )?(?:(?:over "
    rf"|on |at |to |toward |towards )?(?:the |its |our |your )?{SIDE}(?: side| angle| "
    rf"view| hand side|[- ]side view)?"
    r"|(?P<behind>behind|(?:the |its )(?:back|rear|other side|opposite side|far side|reverse "
    r"side|backside)(?: side| view| angle)?|the opposite (?:direction|angle)|in back)"
    r"|(?P<above>above|overhead|up high|high up|up above|on high|over|(?:the |its )?top(?:[- "
    r"]down)?|a high(?:er)?(?: camera)? (?:angle|position|viewpoint|vantage point|point)"
    r"|higher up|a higher place|the ceiling|the sky|bird'?s[- ]eye(?: view)?|a bird'?s[- "
    r"]eye (?:view|perspective)|an? (?:elevated|overhead|top|aerial) (?:angle|position|"
    r"view|viewpoint|perspective))"
    r"|(?P<below>below|underneath|beneath|under|down low|low down|(?:the |its )?bottom|"
    r"a low(?:er)?(?: camera)? (?:angle|position|viewpoint|vantage point|point)|lower "
    r"down|the ground|the floor|ground level|a worm'?s[- ]eye (?:view|perspective)))"
)
_SHOW = (
    r"(?:show|see|view|look at|look|render|display|present|picture|shoot|photograph|film|"
    r"capture|frame|observe|redraw|re-render|reshoot|have a look at|take a look at)"
)

_TAKEN = r"(?:viewed|seen|taken|shot|photographed|captured)"

_CAMERA_CLAUSES: tuple[tuple[str, str], ...] = (
    # zoom
    (r"zoom(?:ed|ing)? ?(?P<which>in|out)(?: (?:on|onto|to|toward|towards|of|from) .{1,40})?", "zoom"),
    (
        r"(?:do |apply |make |with )?an? (?:slow |small |slight |gentle )?zoom[- ](?P<which>in|"
        r"out)(?: (?:on|of) .{1,40})?",
        "zoom",
    ),
    (rf"zoom {_CAMERA} (?P<which>in|out)", "zoom"),
    (
        rf"(?:bring|move|push|dolly|take|get|put|pull|go|come|step|walk|slide|track|fly|place|"
        rf"bring) (?:{_CAMERA} )?(?:up |in )?(?P<in>closer|nearer|forwards?|closer in|in closer)"
        rf"(?: (?:to|in on|up to|toward|towards) .{{1,40}}| in)?",
        "zoom",
    ),
    (
        rf"(?:move|push|dolly|track|go) (?:{_CAMERA} )?(?P<in>in|inwards?|toward|towards)(?: "
        rf"(?:on|to|toward|towards) .{{1,40}}| (?:it|the \w+(?: \w+)?))?",
        "zoom",
    ),
    (
        rf"(?:bring|move|pull|dolly|take|get|go|step|walk|back|track|push|put|fly|place|come)"
        rf" (?:{_CAMERA} )?(?P<out>back|backwards?|away|out|back up|up and away|farther(?: "
        rf"away| back| out)?|further(?: away| back| out)?|farther|off)(?: (?:from) .{{1,40}})?",
        "zoom",
    ),
    (
        r"(?P<in>(?:get |make (?:it |this )?|show )?an? (?:tighter|closer|nearer|close[- ]up|"
        r"closer[- ]up) ?(?:shot|view|look|crop|framing|frame)?(?: of (?:it|this|the .{1,30})"
        r")?)",
        "zoom",
    ),
    (r"(?P<in>(?:closer|nearer|tighter|close[- ]up)(?: (?:shot|view|look|framing|in|up))?)", "zoom"),
    (r"back (?P<out>up|off|away|out)(?: from .{1,40})?", "zoom"),
    (
        rf"(?:{SCENE}|(?:an? |the )?(?:photo|picture|image|shot|view)(?: of {NAMED})?) (?:be )?(?:{_TAKEN} )?from "
        r"(?:(?P<in>closer(?: up)?|nearer|close up|up close)|(?P<out>(?:farther|further|far)(?: away| back| off)?|afar))",
        "zoom",
    ),
    (rf"make {_CAMERA} (?P<in>tighter|closer|nearer|narrower)", "zoom"),
    (rf"make {_CAMERA} (?P<out>wider|more distant|farther away|further away)", "zoom"),
    (
        r"(?P<out>(?:get |make (?:it |this )?|show |use )?an? (?:wider|wide|longer|long|more "
        r"distant|bigger) (?:shot|view|angle|frame|framing|look|wide shot)(?: of (?:it|this|"
        r"the .{1,30}))?)",
        "zoom",
    ),
    (r"take (?:a few |one |two |another )?(?:a )?steps? (?P<out>back|backwards?|away)", "zoom"),
    (r"take (?:a few |one |two |another )?(?:a )?steps? (?P<in>forwards?|closer|in)", "zoom"),
    (rf"pull (?:{_CAMERA} )?(?P<out>back|out|away) to (?:show|reveal|see|include) .{{1,40}}", "zoom"),
    (
        rf"{_SHOW} {SCENE} (?P<in>from (?:closer|nearer|close up|up close|close by|nearby|"
        rf"a closer distance|a shorter distance|closer up|close)|(?:up )?close(?:r|[- ]up)?)",
        "zoom",
    ),
    (
        rf"{_SHOW} {SCENE} (?P<out>from (?:farther|further|far|a distance|afar|farther away|"
        rf"further away|far away|a greater distance|a longer distance|farther back|further "
        rf"back)(?: away| off)?)",
        "zoom",
    ),
    (rf"{_SHOW} more of (?:the )?(?P<out>surroundings?|scene|room|background|environment)", "zoom"),
    # the camera moves
    (
        rf"(?:move|shift|pan|slide|swing|orbit|rotate|turn|truck|track|push|take|bring|spin|"
        rf"arc|revolve|swivel|pivot|fly|circle|drag) {_CAMERA} (?:a?round )?(?:(?:it|the (?:object|"
        rf"scene|subject)) )?(?:to |toward |towards |over to )?(?:the |its |our )?(?P<step>left|"
        rf"right|up|down|upwards?|downwards?|clockwise|counter-?clockwise|anti-?clockwise)(?: "
        rf"side)?(?: of .{{1,30}}| around .{{1,30}})?",
        "step",
    ),
    (
        r"(?:pan|orbit|truck|arc|circle|swing)(?: around)?(?: (?:it|the (?:object|scene|subject|"
        r"\w+)))? ?(?:to |toward |towards )?(?:the |its )?(?P<step>left|right|up|down|clockwise|"
        r"counter-?clockwise)",
        "step",
    ),
    (
        rf"(?:rotate|turn|move|change|shift|swing|spin|orbit) (?:{_CAMERA}|around)(?: around)? ?(?P<bare>)",
        "bare",
    ),
    (rf"(?:raise|lift|elevate|heighten|boost|crane up|boom up) {_CAMERA}(?P<up>)(?: up| higher)?", "step"),
    (rf"(?:lower|drop|sink|crane down|boom down) {_CAMERA}(?P<down>)(?: down)?", "step"),
    (rf"(?:move|bring|take|put|place|set) {_CAMERA} (?P<up>higher(?: up)?)", "step"),
    (rf"(?:move|bring|take|put|place|set|get) {_CAMERA} (?P<down>lower(?: down)?)", "step"),
    (r"(?:go|move|fly|rise) (?P<up>higher|up higher)", "step"),
    (rf"tilt (?:{_CAMERA} )?(?P<up>down(?:wards?)?)", "step"),
    (rf"tilt (?:{_CAMERA} )?(?P<down>up(?:wards?)?)", "step"),
    # where it is seen from
    (
        rf"(?:{_SHOW} (?:me |us )?)?(?:how|what) (?:does |do |would |will |might )?(?:{SCENE}|{NAMED}) "
        rf"(?:would |will |might )?(?:looks?|appears?|be|seems?)(?: like)?(?: when)?(?: {_TAKEN})? (?=from ){_FROM}",
        "from",
    ),
    (
        r"(?:get|go|come|move|crouch|kneel|bend|duck|drop|lie|squat)(?: (?:down|low|lower|to the ground|on the ground))+ and "
        r"(?:look|shoot|film|gaze) (?P<below>up)(?: (?:at|to) .{1,30})?",
        "from",
    ),
    (
        r"(?:get|go|come|move|climb|fly|rise)(?: (?:up|high|higher|above it|on a ladder))+ and "
        r"(?:look|shoot|film|gaze) (?P<above>down)(?: (?:at|on|onto) .{1,30})?",
        "from",
    ),
    (
        rf"{_SHOW} (?:(?:{SCENE}|{THING}) )?(?:viewed |seen |taken |shot )?(?=from ){_FROM}(?: "
        rf"of (?:it|this|{NAMED}))?",
        "from",
    ),
    (rf"(?:make|have|let) {_CAMERA} look (?P<above>down)(?: (?:on|at) {NAMED})?(?: from above)?", "from"),
    (rf"(?:make|have|let) {_CAMERA} look (?P<below>up)(?: (?:at) {NAMED})?(?: from below)?", "from"),
    (
        rf"(?:change|shift|move|rotate|turn|adjust|set) {_CAMERA} (?:around )?(?:so (?:that "
        rf")?(?:we|i|you|it)|to|until (?:we|i)) (?:can |could |is |are )?(?:see|look|looks|"
        rf"looking|view|seen|viewed|show) ?(?:at )?(?:{SCENE}|{NAMED})? ?(?=from ){_FROM}",
        "from",
    ),
    (
        rf"(?:(?:we|i|you) (?:can |could |should |want to )?)(?:see|look at|view) (?:{SCENE}|{THING})"
        rf" (?=from ){_FROM}",
        "from",
    ),
    (
        rf"(?:an? |the )?(?:view|shot|look|perspective|image|photo|picture) (?:(?:of|at) (?:it|"
        rf"this|{NAMED}) )?(?=from ){_FROM}",
        "from",
    ),
    (
        rf"{_SHOW} (?:{SCENE}|{THING}) from (?:the )?front[- ](?P<quarter>left|right)(?: "
        rf"side| corner)?",
        "from",
    ),
    (
        rf"(?:rotate|spin|swing|orbit|turn|move|bring|take) {_CAMERA} (?:all the way )?around "
        rf"to {_FROM}",
        "from",
    ),
    (rf"what (?:does|would) (?:{SCENE}|{THING}) look like {_FROM}", "from"),
    (
        rf"(?:show|see|view|render|use|take|make|switch to|change to|go to|shift to|get|have|"
        rf"as) (?:it |this |the scene )?(?:in |as |at |with |to )?(?:an?|the) {_FROM}(?:[- "
        rf"]view| angle| perspective| shot| viewpoint)(?: of (?:it|this|{NAMED}))?",
        "from",
    ),
    (
        rf"(?:move|shift|bring|take|put|place|set|swing|change|switch|rotate|turn|position|"
        rf"orbit|get|fly) {_CAMERA} (?:around )?(?:over )?(?:to |at |so it is |so we look |"
        rf"be |so that we look )?(?:the |its )?{_FROM}(?: of .{{1,30}}| it| the .{{1,30}})?(?: "
        rf"view| angle| perspective)?",
        "from",
    ),
    (
        rf"(?:walk|go|come|circle|fly|step|swing|orbit|move|get) (?:around |over )*(?:to (?=(?:the "
        rf"|its )(?:left|right|back|rear|other|opposite|far|top))|(?=behind|above|below|underneath)"
        rf"){_FROM}(?: of {NAMED}| it| {NAMED})?",
        "from",
    ),
    (
        rf"(?:change|switch|set|make|shift|adjust) {_CAMERA} (?:to |into )(?:be )?(?:an? |the "
        rf")?{_FROM}(?: view| angle| perspective| shot| one)?",
        "from",
    ),
    (
        r"(?:look|looking|gaze|peer) (?P<above>down)(?: (?:on|at|onto|upon|over) (?:it|this|"
        r"the .{1,30}))?(?: from above)?",
        "from",
    ),
    (
        r"(?:look|looking|gaze|peer) (?P<below>up)(?: (?:at) (?:it|this|the .{1,30}))?(?: "
        r"from below)?",
        "from",
    ),
    (rf"{_FROM}(?: view| angle| perspective| shot| viewpoint)?", "alone"),
    (
        rf"(?:an? |the )?(?:(?P<above>bird'?s[- ]?eye|top[- ]?down|overhead|aerial|high[- ]angle|"
        rf"top|plan|drone)|(?P<below>low[- ]angle|worm'?s[- ]?eye|bottom[- ]up)|(?P<behind>rear|"
        rf"back|reverse)|(?P<sideon>side(?:[- ]on)?|profile)|(?P<side>left|right)(?:[- ](?:hand[- "
        rf"])?side)?)[- ](?:view|angle|shot|perspective|view point|viewpoint|camera angle|look)"
        rf"(?: (?:of|at|over) (?:it|this|{NAMED}))?",
        "from",
    ),
    (
        rf"(?:use|show|take|switch to|change to|make it|make this|render|render it in|show "
        rf"it in|show it as|view it in|view it as|view in|go for|shoot|shoot it|shoot it as|"
        rf"from|try|get|have|set {_CAMERA} to|change {_CAMERA} to|switch {_CAMERA} to|in|as)"
        rf" (?:an? |the )?(?:(?P<above>bird'?s[- ]?eye|top[- ]?down|overhead|aerial|high[- "
        rf"]angle|top|plan|drone|higher)|(?P<below>low[- ]angle|worm'?s[- ]?eye|bottom[- ]up|"
        rf"lower)|(?P<behind>rear|back|reverse)|(?P<sideon>side(?:[- ]on)?|profile)|(?P<side>left|"
        rf"right)(?:[- ](?:hand[- ])?side)?)[- ](?:view|angle|shot|perspective|viewpoint|camera "
        rf"angle)(?: of (?:it|this|{NAMED}))?",
        "from",
    ),
    (rf"{_SHOW} (?:{SCENE} )?(?:from )?(?:the |an? )?(?P<sideon>side(?: angle)?)", "from"),
)


def turns_of(clause: str) -> list[Turn] | None:
    """Return the camera move that a clause asks for, or None."""
    text, is_small = strip_amount(clause)
    text, degrees = strip_degrees(text)
    text = tidy_spaces(_PURPOSE.sub("", MANNER.sub("", text)))
    for pattern, kind in _compiled():
        match = pattern.fullmatch(text)
        if match is None:
            continue
        turn = _turn(match, kind, degrees, is_small)
        if turn is not None:
            return [turn]
    return None


def _turn(match: re.Match[str], kind: str, degrees: float | None, is_small: bool) -> Turn | None:
    found = {name: value for name, value in match.groupdict().items() if value is not None}
    if kind == "zoom":
        return Turn(zoom=found.get("which", "in" if "in" in found else "out").lower())
    if kind == "bare":  # "rotate the view by 45 degrees"
        return None if degrees is None else Turn(yaw=degrees)
    if kind == "step":
        word = found.get("step", "up" if "up" in found else "down").lower()
        around = {"clockwise": "left", "counterclockwise": "right", "anticlockwise": "right"}
        direction = around.get(word.replace("-", ""), word.removesuffix("s").removesuffix("ward"))
        return step(direction, degrees=degrees, is_small=is_small)
    if re.search(r"ing\b", found.get("object", "")):
        return None  # "show the snow falling from above"
    if "side" in found:
        direction = found["side"].lower()
    elif "quarter" in found:
        return view_from(found["quarter"].lower(), degrees=degrees or 45)
    elif "sideon" in found:
        direction = "right"
    else:
        direction = next(name for name in ("behind", "above", "below") if name in found)
    if kind == "alone" and not re.match(r"from|viewed|seen|shot|taken|as seen", match[0], re.I):
        return None
    return view_from(direction, degrees=degrees, is_small=is_small)


@cache
def _compiled() -> list[tuple[re.Pattern[str], str]]:
    """Compile the patterns when the first text is read: it takes a while."""
    return [(re.compile(pattern, re.I), kind) for pattern, kind in _CAMERA_CLAUSES]
