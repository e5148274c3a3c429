"""What goes wrong in a replica's process is raised as the same error where its job is kept."""

from __future__ import annotations

import pytest

from joyimage import errors
from joyimage.edits.fields import FieldError
from joyimage.serving.workers.protocol import DeviceFailedError, ReplicaLostError
from joyimage.serving.workers.ray_serve import tell_error, told_error

OWN = sorted(name for name, one in vars(errors).items() if isinstance(one, type))


@pytest.mark.parametrize("name", OWN)
def test_error_when_it_is_our_own_then_it_keeps_class_and_message(name: str) -> None:
    given: Exception = getattr(errors, name)("`object` is 'elephant'.")

    raised = told_error(*tell_error(given))

    assert type(raised) is type(given)
    assert str(raised) == str(given)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (FieldError("object", 5, "text"), errors.InvalidInputError),
        (DeviceFailedError("CUDA error"), ReplicaLostError),
        (KeyError("a bug"), RuntimeError),
        (UnicodeError("bytes"), ValueError),
    ],
)
def test_error_when_the_other_side_has_no_such_class_then_the_nearest(
    given: Exception, expected: type[Exception]
) -> None:
    assert type(told_error(*tell_error(given))) is expected
