"""What `make mutants` runs: break the code on purpose, one place at a time, and see the named test fail.

`tests/mutants.toml` lists the mutations. Each is applied to a copy of the project, in a process that has the
large libraries imported already, and only the test that must notice it is run.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
_COPIED = ("src", "tests", "scripts", "examples", "docs", "README.md", "Makefile", "pyproject.toml")
_TIMEOUT_S = 300
_KILLED, _SURVIVED = 1, 0  # exit codes of pytest: some test failed, all passed


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """One mutation.

    Attributes:
        file: The file that is changed, from the root of the project.
        old: Text that occurs exactly once in it.
        new: What stands there instead.
        test: Test that must fail then, FILE::FUNCTION below `tests`.
        breaks: What users would get.
    """

    file: str
    old: str
    new: str
    test: str
    breaks: str


def load_mutants(path: Path = ROOT / "tests" / "mutants.toml") -> list[Mutant]:
    """Read the list."""
    return [Mutant(**entry) for entry in tomllib.loads(path.read_text(encoding="utf-8"))["mutant"]]


def find_stale(mutants: list[Mutant], root: Path = ROOT) -> list[str]:
    """Return a sentence for each mutation that no longer fits the project."""
    problems = []
    for mutant in mutants:
        path = root / mutant.file
        count = path.read_text(encoding="utf-8").count(mutant.old) if path.is_file() else 0
        if count != 1:
            problems.append(f"{mutant.file}: {mutant.old!r} occurs {count} times; expected once.")
        file, _, function = mutant.test.partition("::")
        test_path = root / "tests" / file
        if not test_path.is_file() or f"def {function}(" not in test_path.read_text(encoding="utf-8"):
            problems.append(f"{mutant.file}: there is no test {mutant.test}.")
    return problems


def main(arguments: list[str]) -> int:
    """Apply every mutation whose file or test contains one of the arguments; all without arguments.

    Returns:
        0 if every mutation was noticed, else 1.
    """
    mutants = [
        mutant
        for mutant in load_mutants()
        if not arguments or any(word in f"{mutant.file} {mutant.test}" for word in arguments)
    ]
    for problem in (problems := find_stale(mutants)):
        print(problem)
    if problems or not mutants:
        print("No mutation was applied.")
        return 1
    _preload()
    with tempfile.TemporaryDirectory(prefix="joyimage-mutants-") as folder:
        copy = _copy_project(Path(folder))
        code, output = _run(copy, sorted({mutant.test for mutant in mutants}), timeout_s=20 * _TIMEOUT_S)
        if code != 0:
            print(f"The tests fail without any mutation:\n{output}")
            return 1
        survivors = [mutant for mutant in mutants if not _is_noticed(copy, mutant)]
    print(f"{len(mutants) - len(survivors)} of {len(mutants)} mutations were noticed.")
    for mutant in survivors:
        print(f"NOT NOTICED by {mutant.test}: {mutant.file}: {mutant.new!r}: {mutant.breaks}")
    return 1 if survivors else 0


def _is_noticed(copy: Path, mutant: Mutant) -> bool:
    path = copy / mutant.file
    text = path.read_text(encoding="utf-8")
    started = time.monotonic()
    path.write_text(text.replace(mutant.old, mutant.new), encoding="utf-8")
    try:
        code, output = _run(copy, [mutant.test], timeout_s=_TIMEOUT_S)
    finally:
        path.write_text(text, encoding="utf-8")
    verdict = {_KILLED: "noticed", _SURVIVED: "NOT NOTICED"}.get(code, f"no verdict, exit code {code}")
    print(f"{verdict:12} {time.monotonic() - started:5.1f} s  {mutant.file}: {mutant.new!r}", flush=True)
    if code not in {_KILLED, _SURVIVED}:
        print(output)
    return code == _KILLED


def _copy_project(folder: Path) -> Path:
    copy = folder / "project"
    ignored = shutil.ignore_patterns("__pycache__", ".pytest_cache")
    for name in _COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=ignored)
        else:
            shutil.copy2(ROOT / name, copy / name)
    return copy


def _preload() -> None:
    """Import the large libraries once, and nothing of joyimage, which every child imports from the copy."""
    import diffusers  # noqa: F401
    import hypothesis  # noqa: F401
    import peft  # noqa: F401
    import torch
    import transformers.models.qwen3_vl.modeling_qwen3_vl  # noqa: F401

    torch.set_num_threads(1)
    assert not any(name.split(".")[0] in {"joyimage", "tests"} for name in sys.modules)


def _run(copy: Path, tests: list[str], *, timeout_s: float) -> tuple[int, str]:
    """Run tests of the copy in a child and return its exit code and output.

    A child that takes longer counts as noticed: the mutation made the code hang.
    """
    log_path = copy.parent / "log"
    child = os.fork()
    if child == 0:
        os._exit(_run_here(copy, tests, log_path))
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status), log_path.read_text(errors="replace")[-4000:]
        time.sleep(0.05)
    os.kill(child, 9)
    os.waitpid(child, 0)
    return _KILLED, "timeout"


def _run_here(copy: Path, tests: list[str], log_path: Path) -> int:
    import pytest

    log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.chdir(copy)
    sys.dont_write_bytecode = True
    sys.path[:0] = [str(copy / "src"), str(copy)]
    # Not the interpreter's own finders for the installed package: the copy comes first.
    sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in repr(finder).lower()]
    os.environ.update(
        PYTHONPATH=f"{copy / 'src'}{os.pathsep}{copy}", PYTHONDONTWRITEBYTECODE="1", OMP_NUM_THREADS="1"
    )
    options: list[Any] = ["-x", "-q", "-p", "no:randomly", "-p", "no:cacheprovider", "-m", "not gpu"]
    return int(pytest.main([*options, *(f"tests/{test}" for test in tests)]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
