"""English phrases that ask for a move, a rotation or a camera move."""

from __future__ import annotations

import re
from functools import cache

from joyimage.edits import Move, Rotate
from joyimage.understanding.phrases.turns import Turn, step, view_from

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
_SMALL = re.compile(
    r",? *\b(?:just )?(?:a (?:little|tiny)(?: bit)?|a (?:small |tiny )?(?:bit|touch|"
    r"tad)|slightly|somewhat|gently"
    r"|ever so slightly)\b(?: more)?",
    re.I,
)
# Why a camera move is asked for, where that says nothing that the move does not.
_PURPOSE = re.compile(
    r" so (?:that )?(?:(?:we|i|you) (?:can |could )?see (?:more|everything|all of it|the (?:whole|entire) .{1,30})"
    r"|.{1,40} (?:fits?(?: in| inside)?|(?:is|are) (?:fully |all )?(?:visible|readable|in (?:the )?(?:frame|view|shot|picture))))$",
    re.I,
)
_MANNER = re.compile(r"\b(?:quickly|slowly|gently|smoothly|carefully|all the way)\b", re.I)
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

_SIDE = r"(?P<side>left|right)(?:[- ]hand)?"
_SCENE = (
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
_NAME = rf"(?:(?!{_NOT_NAME}\b)[\w'’-]+)(?: (?!{_NOT_NAME}\b)[\w'’-]+){{0,3}}"
_THING = rf"(?P<object>it|(?:the|this|that|my|our|his|her|their|its|a|an) {_NAME}|{_NAME})"
_NAMED = rf"(?:(?:the|this|that|my|our|a|an) )?{_NAME}"
_CAMERA = (
    r"(?:the |your |my |our )?(?:camera|viewpoint|view point|point of view|viewing angle|"
    r"camera angle|perspective|view|angle|shot|pov|vantage point)"
)

_FROM = (
    rf"(?:from |viewed from |seen from |shot from |taken from |as seen from )?(?:(?:over "
    rf"|on |at |to |toward |towards )?(?:the |its |our |your )?{_SIDE}(?: side| angle| "
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
        rf"(?:{_SCENE}|(?:an? |the )?(?:photo|picture|image|shot|view)(?: of {_NAMED})?) (?:be )?(?:{_TAKEN} )?from "
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
        rf"{_SHOW} {_SCENE} (?P<in>from (?:closer|nearer|close up|up close|close by|nearby|"
        rf"a closer distance|a shorter distance|closer up|close)|(?:up )?close(?:r|[- ]up)?)",
        "zoom",
    ),
    (
        rf"{_SHOW} {_SCENE} (?P<out>from (?:farther|further|far|a distance|afar|farther away|"
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
        rf"(?:{_SHOW} (?:me |us )?)?(?:how|what) (?:does |do |would |will |might )?(?:{_SCENE}|{_NAMED}) "
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
        rf"{_SHOW} (?:(?:{_SCENE}|{_THING}) )?(?:viewed |seen |taken |shot )?(?=from ){_FROM}(?: "
        rf"of (?:it|this|{_NAMED}))?",
        "from",
    ),
    (rf"(?:make|have|let) {_CAMERA} look (?P<above>down)(?: (?:on|at) {_NAMED})?(?: from above)?", "from"),
    (rf"(?:make|have|let) {_CAMERA} look (?P<below>up)(?: (?:at) {_NAMED})?(?: from below)?", "from"),
    (
        rf"(?:change|shift|move|rotate|turn|adjust|set) {_CAMERA} (?:around )?(?:so (?:that "
        rf")?(?:we|i|you|it)|to|until (?:we|i)) (?:can |could |is |are )?(?:see|look|looks|"
        rf"looking|view|seen|viewed|show) ?(?:at )?(?:{_SCENE}|{_NAMED})? ?(?=from ){_FROM}",
        "from",
    ),
    (
        rf"(?:(?:we|i|you) (?:can |could |should |want to )?)(?:see|look at|view) (?:{_SCENE}|{_THING})"
        rf" (?=from ){_FROM}",
        "from",
    ),
    (
        rf"(?:an? |the )?(?:view|shot|look|perspective|image|photo|picture) (?:(?:of|at) (?:it|"
        rf"this|{_NAMED}) )?(?=from ){_FROM}",
        "from",
    ),
    (
        rf"{_SHOW} (?:{_SCENE}|{_THING}) from (?:the )?front[- ](?P<quarter>left|right)(?: "
        rf"side| corner)?",
        "from",
    ),
    (
        rf"(?:rotate|spin|swing|orbit|turn|move|bring|take) {_CAMERA} (?:all the way )?around "
        rf"to {_FROM}",
        "from",
    ),
    (rf"what (?:does|would) (?:{_SCENE}|{_THING}) look like {_FROM}", "from"),
    (
        rf"(?:show|see|view|render|use|take|make|switch to|change to|go to|shift to|get|have|"
        rf"as) (?:it |this |the scene )?(?:in |as |at |with |to )?(?:an?|the) {_FROM}(?:[- "
        rf"]view| angle| perspective| shot| viewpoint)(?: of (?:it|this|{_NAMED}))?",
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
        rf"){_FROM}(?: of {_NAMED}| it| {_NAMED})?",
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
        rf"(?: (?:of|at|over) (?:it|this|{_NAMED}))?",
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
        rf"angle)(?: of (?:it|this|{_NAMED}))?",
        "from",
    ),
    (rf"{_SHOW} (?:{_SCENE} )?(?:from )?(?:the |an? )?(?P<sideon>side(?: angle)?)", "from"),
)

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
_OWNED = rf"(?P<object>(?:the|my|our|this|that) {_NAME})['’]s"
_TOWARD_US = r"(?:to|toward|towards|at|facing|pointing (?:to|at|toward|towards)) (?:us|me|you|the (?:camera|viewer|front))"
_ROTATE_CLAUSES = (
    rf"(?:(?:i )?(?:want|need|have|get|put|turn|rotate|make|with) )?{_OWNED} (?:(?P<front>{_FRONT_PART})|(?P<rear>back|"
    rf"rear|tail|stern)|(?P<side>left|right)(?: side)?) (?:to be |turned )?{_TOWARD_US}",
    rf"(?:have|let|make|get|turn|rotate) {_OWNED} {_FRONT_PART} (?:to )?{_FACE} {_HEADING}",
    rf"{_TURN} {_THING} (?:around |round )?so (?:that )?(?:we|i|you) (?:can |could )?(?:see|look at|view) (?:it|him|her|them) "
    rf"from {_VIEWED}",
    rf"{_TURN} {_THING} (?:around |round )?(?:so (?:that )?(?:we|i|you|one) (?:can |could "
    rf")?(?:only )?(?:see|look at|are looking at|view)|to (?:show|see|reveal|display|expose)"
    rf"|so (?:that )?(?:it|he|she|they) (?:shows?|reveals?)|and show|until (?:we|i) (?:can "
    rf")?see|showing|revealing) (?:us |me )?{_VIEWED}(?: of (?:it|the .{{1,30}}))?",
    rf"{_TURN} {_THING} (?:around |round )?so (?:that )?(?:the |its |his |her |their )?(?:{_CORNER}|"
    rf"(?P<front>front|face)|(?P<rear>back|rear|tail)|(?P<side>left|right))(?: side| end)? "
    rf"(?:is |are )?(?:visible|showing|shows|seen|facing (?:us|me|the (?:camera|viewer)"
    rf")|faces (?:us|me|the (?:camera|viewer))|toward us|towards us|to us|points at us)",
    rf"{_TURN} {_THING} (?:around |round )?(?:so (?:that )?)?(?:it |he |she |they |it's "
    rf"|(?:its|his|her|the) {_FRONT_PART} )?(?:is |are |to |so as to )?(?:be "
    rf")?{_FACE} {_HEADING}",
    rf"{_TURN} {_THING} (?:around |round )?(?:to |toward |towards |onto |into )(?:the |its |a )?{_VIEWED}",
    rf"{_TURN} {_THING} (?:around |round )?{_HEADING}",
    rf"{_TURN} {_THING} (?P<rear>(?:all the way |completely |fully )?(?:around|round|back "
    rf"to front|180 degrees|180°|by 180 degrees|by 180°|backwards|half a turn|half way "
    rf"around|halfway around))",
    rf"(?:make|have|let|get) {_THING} (?:to )?{_FACE} {_HEADING}",
    rf"(?:make|have|let|get) {_THING} (?:turn|rotate|spin) (?:around )?(?:and face |to face )?{_HEADING}",
    rf"(?:make|have|let|get) {_THING} (?:turn|rotate|spin) (?P<rear>around)",
    rf"(?:make|have|let) {_THING} (?:show|present) {_VIEWED}",
    rf"{_THING} (?:should|to|must|has to) (?:be )?{_FACE} {_HEADING}",
    rf"face {_THING} {_HEADING}",
    r"(?:show|see|view) (?:us |me )?(?P<object>)(?:the |its )(?P<side>left|right)(?:[- ]hand)? side",
    rf"(?:show|see|view|reveal|display|let me see|let us see|look at) (?:us |me )?(?:the "
    rf"|its )?(?:{_CORNER}|(?P<front>front|face)|(?P<rear>back|rear|backside|back side|"
    rf"tail|other side|reverse side|reverse|far side)|(?P<side>left|right)(?= side))(?: "
    rf"side| end| view)?(?: of {_THING})",
    rf"(?:show|see|view|reveal|display) (?:us |me )?(?P<object>(?:the|my|this|that) {_NAME})"
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
_DEFINITE = rf"(?P<object>it|(?:the|this|that|my|our|his|her|their) {_NAME})"
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


def turns_of(clause: str) -> list[Turn] | None:
    """Return the camera move that a clause asks for, or None."""
    text, is_small = _strip_amount(clause)
    text, degrees = _strip_degrees(text)
    text = _tidy(_PURPOSE.sub("", _MANNER.sub("", text)))
    for pattern, kind in _compiled()[0]:
        match = pattern.fullmatch(text)
        if match is None:
            continue
        turn = _turn(match, kind, degrees, is_small)
        if turn is not None:
            return [turn]
    return None


def rotation_of(clause: str) -> Rotate | None:
    """Return the rotation that a clause asks for, or None."""
    text = _tidy(_MANNER.sub("", _strip_amount(clause)[0]))
    for pattern in _compiled()[1]:
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
    text = _tidy(_strip_amount(clause)[0])
    for pattern in _compiled()[2]:
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


def _strip_amount(clause: str) -> tuple[str, bool]:
    text, count = _SMALL.subn("", clause)
    return _FAR.sub("", _LARGE.sub("", text)), count > 0


def _strip_degrees(text: str) -> tuple[str, float | None]:
    found = _DEGREES.search(text)
    if found is None:
        return text, None
    return text[: found.start()] + text[found.end() :], float(found[1])


def _tidy(text: str) -> str:
    return " ".join(text.split()).strip(" ,.")


@cache
def _compiled() -> tuple[list[tuple[re.Pattern[str], str]], list[re.Pattern[str]], list[re.Pattern[str]]]:
    """Compile the patterns of camera moves, rotations and moves, when the first text is read: it takes a while."""
    return (
        [(re.compile(pattern, re.I), kind) for pattern, kind in _CAMERA_CLAUSES],
        [re.compile(pattern, re.I) for pattern in _ROTATE_CLAUSES],
        [re.compile(pattern, re.I) for pattern in _MOVE_CLAUSES],
    )
