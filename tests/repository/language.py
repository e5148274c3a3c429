"""Terms that this project does not use, and where they still stand."""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DEBT_PATH = Path(__file__).with_name("language_debt.json")
_FOLDERS = ("src", "docs", "tests", "scripts", "examples", "deploy", ".github")
_SUFFIXES = {".py", ".md", ".js", ".html", ".css", ".toml", ".yml", ".yaml", ".ini"}
_NOT_OURS = ("/weights/", "/golden/", "/vendor/", "/phrases/")
# What may stand between the words of a sentence that is wrapped: comments, lists, and the quotes of two literals.
_MARGIN = " \t#*/\"'"
# The list itself, and what is left of each term.
_THIS = (
    "tests/repository/language.py",
    "tests/repository/test_language.py",
    "tests/repository/language_debt.json",
)
# On the page a photo is a picture, and a canvas is an element of HTML.
_PAGE_SUFFIXES = {".js", ".html", ".css"}
# Names that older databases, dashboards and changes have.
_OLD_NAMES = (
    "src/joyimage/serving/jobs/migrations/",
    "src/joyimage/serving/metrics.py",
    "tests/serving/test_upgrade.py",
    "CHANGELOG.md",
)


@dataclass(frozen=True)
class Term:
    """A term to avoid.

    Attributes:
        name: Key in the list of what is left.
        pattern: What to search for; case does not matter.
        instead: What to write.
        is_for_page: Whether the term is avoided in the page's files too.
        allowed_in: Starts of paths of files where it is the right term.
    """

    name: str
    pattern: str
    instead: str
    is_for_page: bool = True
    allowed_in: tuple[str, ...] = ()


TERMS = (
    Term("picture", r"picture", "image", is_for_page=False, allowed_in=(*_OLD_NAMES, "tests/web/")),
    Term(
        "canvas",
        r"canvas",
        "target size, target image",
        is_for_page=False,
        allowed_in=(
            "src/joyimage/tiny/worlds/",
            "tests/tiny_model/",
            "tests/web/",
            *_OLD_NAMES,
        ),  # drawing, HTML
    ),
    Term(
        "wording",
        r"wording",
        "prompt, `prompt_style`",
        is_for_page=False,
        allowed_in=(
            "src/joyimage/edits/values.py",
            "tests/web/",
            *_OLD_NAMES,
        ),  # an alias, and the page's field
    ),
    Term("wished", r"\bwished|_wished", "requested"),
    Term("shall", r"\bshall\b", "should, must, or the present tense"),
    Term("likewise", r"\blikewise\b", "the whole statement again"),
    Term(
        "fragment",
        # Behind the name of an exception, "its" is the argument's.
        r"^\s+\*{0,2}(?!\w*Error:)\w+(?: \([^)]*\))?: (?:Of |Its |Their |As many|The same\b|Goes with)",
        "a complete argument line",
    ),
    Term("go on", r"\b(?:goes|go|went|going) on\b|goes_on", "continue, resume"),
    Term("in a row", r"\bin a row\b|in_a_row", "packed, consecutive"),
    Term("hand out", r"\bhand(?:s|ed|ing)?[ _]out\b|_hand_out", "dispatch"),
    Term("look ahead", r"\blook(?:s|ed|ing)?[ _]ahead\b", "prefetch"),
    Term("put back", r"\bputs? back\b|(?<![a-z])put_back", "requeue, restore"),
    Term("keep house", r"\bkeeps? house\b|keep_house", "housekeeping"),
    Term("sign of life", r"signs? of life", "heartbeat"),
    Term("wants a say", r"wants? a say", "is active, applies"),
    Term(
        "refuse",
        r"refus(?:e[sd]?|als?|ing)\b",
        "reject, raise",
        allowed_in=(*_OLD_NAMES, "src/joyimage/serving/http/service.py"),
    ),
    Term("can't be", r"can't be\.|can't be taken|there is no such thing", "is not valid, not found"),
    Term("beginning", r"beginning", "prefix, start"),
    Term(
        "homely classes",
        r"(?-i:\b(?:Made|Outcome|Ledger|Guard|Received|Prepared)\b)[(\[|\]:]",
        "the standard term",
    ),
    Term(
        "is no",
        r"(?<!there )\b(?:is|are) no (?:JSON|images?|tensors?|numbers?|text|fields?|rows?|CSV|address|valid|part of"
        r"|whole|folder|drawn|uncompressed)\b",
        "is not a",
    ),
    Term("in the place of", r"\bin the place of\b", "in place of, instead of"),
    Term("tally", r"(?<![a-z])tally\b", "op counter, counts"),
    Term("ceilings", r"ceilings", "hardware peaks"),
    Term("nobody", r"\bnobody\b", "a subject that exists"),
)


def area_of(path: str) -> str:
    """Return the folder that a file is counted under: a package, a folder of tests, or the top."""
    folders = path.split("/")[:-1]
    return "/".join(folders[: 3 if folders[:1] == ["src"] else 2]) or "."


def own_files() -> list[str]:
    """List the text files of the project, as paths from its root."""
    listed = [path.relative_to(ROOT).as_posix() for path in ROOT.glob("*.md")]
    for folder in _FOLDERS:
        listed += [path.relative_to(ROOT).as_posix() for path in (ROOT / folder).rglob("*")]
    return sorted(
        path
        for path in listed
        if Path(path).suffix in _SUFFIXES
        and path not in _THIS
        and not any(part in path for part in _NOT_OURS)
    )


def find_terms() -> dict[tuple[str, str], list[str]]:
    """Find all terms; for each term and area, "path:line: text" of every line with it."""
    found: dict[tuple[str, str], list[str]] = {}
    patterns = [(term, re.compile(term.pattern, re.IGNORECASE | re.MULTILINE)) for term in TERMS]
    for path in own_files():
        is_page = ("web/static" in path or "tests/web/modules" in path) and Path(
            path
        ).suffix in _PAGE_SUFFIXES
        text = (ROOT / path).read_text(encoding="utf-8")
        for term, pattern in patterns:
            if (is_page and not term.is_for_page) or path.startswith(term.allowed_in):
                continue
            lines = text.splitlines()
            is_one_line = term.name == "fragment"
            if not pattern.search(text) and (is_one_line or not pattern.search(_unwrapped(text))):
                continue
            for number, (line, following) in enumerate(
                itertools.zip_longest(lines, lines[1:], fillvalue=""), 1
            ):
                if pattern.search(line) or (not is_one_line and _is_wrapped(pattern, line, following)):
                    place = f"{path}:{number}: {line.strip()}"
                    found.setdefault((term.name, area_of(path)), []).append(place)
    return found


def _unwrapped(text: str) -> str:
    """Return a text on one line, without the marks of comments and lists at the start of its lines."""
    return " ".join(line.strip(_MARGIN) for line in text.splitlines())


def _is_wrapped(pattern: re.Pattern[str], line: str, following: str) -> bool:
    """Return whether a term begins in a line and ends in the next one."""
    start = line.rstrip(_MARGIN)
    both = f"{start} {following.lstrip(_MARGIN)}"
    return any(found.start() < len(start) < found.end() for found in pattern.finditer(both))


def write_debt() -> None:
    """Write down how many lines of each area hold each term: run `python -m tests.repository.language`."""
    debt: dict[str, dict[str, int]] = {}
    for (term, area), places in sorted(find_terms().items()):
        debt.setdefault(term, {})[area] = len(places)
    DEBT_PATH.write_text(json.dumps(debt, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write_debt()
