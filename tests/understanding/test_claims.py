"""Instructions of a known form claim which objects the result shows."""

from __future__ import annotations

import pytest

from joyimage.understanding.claims import Claim, claims_of


@pytest.mark.parametrize(
    ("instruction", "claims"),
    [
        ("Remove the blue car.", [Claim("blue car", False)]),
        ("Add a green star at the top left.", [Claim("green star", True)]),
        (
            "Replace the red heart with a blue square.",
            [Claim("blue square", True), Claim("red heart", False)],
        ),
        ("Recolor the heart orange.", [Claim("orange heart", True)]),
        ("Make the left car red.", [Claim("red left car", True)]),
        ("Recolor the blue heart orange.", [Claim("orange heart", True), Claim("blue heart", False)]),
        ("Put a black square at the bottom.", [Claim("black square", True)]),
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
