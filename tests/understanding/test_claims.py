"""Instructions of a known form claim which objects the result shows."""

from __future__ import annotations

import pytest

from joyimage.understanding.claims import (
    Claim,
    DrawingClaims,
    claims_of,
    drawing_claims_of,
    objects_before,
)


@pytest.mark.parametrize(
    ("instruction", "claims"),
    [
        ("Remove the blue car.", [Claim("blue car", False)]),
        ("Add a green star at the top left.", [Claim("green star", True, "at the top left")]),
        (
            "Replace the red heart with a blue square.",
            [Claim("blue square", True), Claim("red heart", False)],
        ),
        ("Recolor the heart orange.", [Claim("orange heart", True)]),
        ("Make the left car red.", [Claim("red left car", True)]),
        ("Recolor the blue heart orange.", [Claim("orange heart", True), Claim("blue heart", False)]),
        ("Put a black square at the bottom.", [Claim("black square", True, "at the bottom")]),
        ("Put the car at the bottom.", []),
        ("Change the color of the triangle to blue.", [Claim("blue triangle", True)]),
        (
            "Turn the green star into a purple square.",
            [Claim("purple square", True), Claim("green star", False)],
        ),
        ("Make it look like winter.", []),
        ("Remove the dust, then add a tree and a bird.", []),
    ],
)
def test_claims_when_read_from_an_instruction_then_objects_of_the_result(
    instruction: str, claims: list[Claim]
) -> None:
    assert claims_of(instruction) == claims


@pytest.mark.parametrize(
    ("prompt", "claims"),
    [
        (
            "Draw a black heart at the top right and a blue cross in the center on a sky blue background.",
            DrawingClaims(
                (Claim("black heart", True, "at the top right"), Claim("blue cross", True, "in the center")),
                "sky blue",
            ),
        ),
        ("a red star", DrawingClaims((Claim("red star", True),), None)),
        (
            "An orange circle, a star and a green square on a white background",
            DrawingClaims(
                (Claim("orange circle", True), Claim("star", True), Claim("green square", True)), "white"
            ),
        ),
        ("Draw a city at night in the style of an old master.", None),
        ("A red star on fire.", None),
        ("", None),
    ],
)
def test_claims_when_read_from_a_prompt_of_an_image_then_all_of_it_or_none(
    prompt: str, claims: DrawingClaims | None
) -> None:
    assert drawing_claims_of(prompt) == claims


@pytest.mark.parametrize(
    ("instruction", "names"),
    [
        ("Remove the red star.", ["red star"]),
        ("Recolor the heart orange.", ["heart"]),
        ("Replace the black heart with a red cross.", ["black heart"]),
        ("erase the Green cross in the middle", ["green cross"]),
        ("Make it red.", []),
        ("Make the photo black.", []),
        ("Make the background blue.", []),
        ("Add a red star at the top left.", []),
        ("Let it snow.", []),
    ],
)
def test_objects_when_an_instruction_needs_them_then_named_in_lower_case(
    instruction: str, names: list[str]
) -> None:
    assert objects_before(instruction) == names
