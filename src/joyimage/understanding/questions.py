"""The questions that a checkpoint with language is asked about images, in the words that everything uses.

A yes/no question is answered by a probability, not by sampling: P(yes) / (P(yes) + P(no)) of the first token behind
`tokenize_chat` (the model's own chat form, no system message, images before the question), where yes and no are the
tokens of `YES` and `NO`. The embedded model is trained on exactly these texts; a changed word here needs its training.

Source: Z. Lin et al., "Evaluating text-to-visual generation with image-to-text generation", 2024 (VQAScore),
arXiv 2404.01291.
"""

from __future__ import annotations

from joyimage.spatial.prompts import without_article
from joyimage.spatial.rotation import View

YES, NO = "Yes", "No"
"""The two answers of every question that asks for yes or no; each begins with a token of its own."""

DESCRIBE = "Describe this image in one paragraph."
"""What `describe` asks about one image unless told otherwise."""
CHANGED = "What changed between the two images?"
"""Asked about the image before and the image after, in this order."""
DRAWN = "Is this a drawn scene? Answer yes or no."
"""Asked about one image; only the embedded model, which knows drawn scenes alone, is trained on it."""
VIEWS = tuple(view.value for view in View)
"""The answers to `visible_side`: directions in the image, as in `View`."""


def edit_is_done(instruction: str) -> str:
    """Ask whether an edit happened. Images: before (for a move with its red box, as the editor sees it), after."""
    return (
        f"The second image is an edit of the first. The instruction was: {instruction.strip()} "
        "Did the requested change happen? Answer yes or no."
    )


def rest_is_unchanged(instruction: str) -> str:
    """Ask whether what should stay, stayed. Images: as for `edit_is_done`."""
    return (
        f"The second image is an edit of the first. The instruction was: {instruction.strip()} "
        "Is everything else unchanged? Answer yes or no."
    )


def shows_prompt(prompt: str) -> str:
    """Ask whether an image made from text alone shows what was asked for. Image: the result."""
    return (
        f"The image was made from this prompt: {prompt.strip()} Does it show all of that? Answer yes or no."
    )


def object_is_present(name: str) -> str:
    """Ask whether an object is in an image. Image: any one. Article or not: "blue car" and "the blue car" are one."""
    return f"Is there any {without_article(name.strip())} in the image? Answer yes or no."


def object_at(place: str) -> str:
    """Ask what is in a place, such as "at the top left". Image: any one. The answer is "A blue car"."""
    return f"What is {place}?"


COUNT = "How many objects are there?"
"""Asked about one image; the answer is one of `NUMBERS`."""
NUMBERS = ("None", "One", "Two", "Three", "Four", "Five", "Six")
BACKGROUND = "What color is the background?"
"""Asked about one image; the answer is the name of a color, "Sky blue"."""


def named(name: str) -> str:
    """Return the answer that names one object: "A blue car"."""
    return f"{'An' if name[0] in 'aeiou' else 'A'} {name}"


def object_is_in_box(name: str) -> str:
    """Ask whether an object is inside a region. Image: one on which `draw_red_box` has drawn the region."""
    return f"Is the {without_article(name.strip())} inside the red box? Answer yes or no."


def visible_side(name: str) -> str:
    """Ask which view of an object is visible. Image: any one. The answer is one of `VIEWS`."""
    return f"Which side of the {without_article(name.strip())} is visible?"
