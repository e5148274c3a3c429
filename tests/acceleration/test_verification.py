"""A kernel that is wrong, or that cannot run, is found out at its first use and replaced by plain torch."""

from __future__ import annotations

import logging
import sys
from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from joyimage import acceleration
from joyimage.acceleration import accelerate, report, verification
from joyimage.acceleration.ops import TorchOps, TritonOps
from joyimage.acceleration.verification import failures, run_verified
from joyimage.model.ops import EPS
from tests import random_models
from tests.model.drive import draw, inputs

OPS = TritonOps(on_any_device=True)
PLAIN = TorchOps()


@pytest.fixture(autouse=True)
def _no_verdicts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verification, "_verdicts", {})


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a module that computes in torch what the kernels do, so that a test can break one of them."""
    module: Any = ModuleType("joyimage.acceleration.kernels")

    def rotate_in_place(heads: torch.Tensor, weight: torch.Tensor, eps: float, tables: Any) -> None:
        norm = torch.nn.RMSNorm(heads.shape[-1], eps=eps)
        norm.weight = torch.nn.Parameter(weight, requires_grad=False)
        heads.copy_(PLAIN.norm_rotate(heads, norm, tables))

    module.norm_modulate = lambda x, shift, scale, eps: PLAIN.norm_modulate(x, shift, scale)
    module.gated_add_norm_modulate = lambda *args: PLAIN.gated_add_norm_modulate(*args[:-1])
    module.norm_rotate_ = rotate_in_place
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(acceleration, "kernels", module, raising=False)
    return module


@torch.no_grad()
def test_edit_when_every_kernel_is_wrong_then_numbers_are_those_of_plain_torch(
    kernels: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = random_models.make_transformer()
    accelerate(model, ops="torch")
    expected = model(**inputs()).sample
    right = vars(kernels).copy()
    kernels.norm_modulate = lambda *args: right["norm_modulate"](*args) + 1
    kernels.gated_add_norm_modulate = lambda *args: (args[0], args[0])
    kernels.norm_rotate_ = lambda heads, *_: heads.zero_()
    monkeypatch.setattr(logging.getLogger("diffusers"), "propagate", True)
    model.set_ops(OPS)

    with caplog.at_level(logging.WARNING):
        first = model(**inputs()).sample
        lines = len(caplog.records)
        second = model(**inputs()).sample

    torch.testing.assert_close(
        first, expected, rtol=1e-4, atol=1e-5
    )  # plain torch, in another order on a CPU
    assert torch.equal(second, first)
    assert set(failures()) == {
        f"kernel {name}" for name in ("norm_modulate", "gated_add_norm_modulate", "norm_rotate")
    }
    assert failures().items() <= report(model).skipped.items()
    assert len(caplog.records) == lines  # one line for each use, not for each call
    assert "The kernel norm_modulate is not used for float32 (1, 12," in caplog.text


@torch.no_grad()
def test_kernels_when_right_then_plain_torch_runs_at_the_first_use_of_a_shape_only(
    kernels: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[torch.Size] = []
    plain = TorchOps.norm_modulate
    kernels.norm_modulate = lambda x, shift, scale, eps: plain(PLAIN, x, shift, scale)
    monkeypatch.setattr(
        TorchOps, "norm_modulate", lambda self, x, *rest: (calls.append(x.shape), plain(self, x, *rest))[1]
    )
    shift, scale = draw(1, 1, 8), draw(1, 1, 8)

    for length in (3, 3, 5, 3, 5):
        OPS.norm_modulate(draw(1, length, 8), shift, scale)

    assert [shape[1] for shape in calls] == [3, 5]
    assert failures() == {}


@torch.no_grad()
def test_kernel_when_it_cannot_be_compiled_then_plain_torch_runs(kernels: Any) -> None:
    def fail(*_: object) -> None:
        raise FileNotFoundError("No C compiler")

    kernels.norm_rotate_ = fail
    heads, norm = draw(1, 3, 2, 8), torch.nn.RMSNorm(8, eps=EPS)
    expected = PLAIN.norm_rotate(heads, norm, None)

    got = OPS.norm_rotate(heads, norm, None, out=heads)

    assert got is heads
    assert torch.equal(heads, expected)
    assert failures() == {"kernel norm_rotate": "FileNotFoundError: No C compiler"}


def test_kernel_when_memory_runs_out_then_the_error_is_raised() -> None:
    def fail() -> torch.Tensor:
        raise torch.OutOfMemoryError("out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        run_verified("kernel", (draw(2, 2),), fail, lambda: draw(2, 2))

    assert failures() == {}


def test_kernel_when_inputs_are_not_finite_then_it_stays() -> None:
    broken = torch.full((2, 2), float("nan"))

    run_verified("kernel", (broken,), lambda: broken, lambda: broken)

    assert failures() == {}


@given(
    row=st.integers(0, 63),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    seed=st.integers(0, 99),
)
def test_kernel_when_one_row_of_many_is_wrong_then_it_is_found(
    row: int, dtype: torch.dtype, seed: int
) -> None:
    verification._verdicts.clear()
    right = draw(64, 32, seed=seed).to(dtype)
    wrong = right.clone()
    wrong[row] = -wrong[row]

    assert run_verified("kernel", (right,), lambda: wrong, lambda: right) is right
    assert "in one row by" in failures()["kernel kernel"]


@given(dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]), seed=st.integers(0, 99))
def test_kernel_when_it_rounds_otherwise_then_it_stays(dtype: torch.dtype, seed: int) -> None:
    verification._verdicts.clear()
    plain = draw(16, 32, seed=seed).to(dtype)
    rounded = plain * (1 + torch.finfo(dtype).eps)

    assert run_verified("kernel", (plain,), lambda: rounded, lambda: plain) is rounded
