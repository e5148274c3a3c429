"""What `make mutants` runs: break the code on purpose, one place at a time, and see the named test fail.

`tests/mutants.toml` lists the mutations. Each is applied to a copy of the project, in a process that has the
large libraries imported already, and only the test that must notice it is run. Verdicts are written to
`.mutants.jsonl` as they come; `--resume` keeps those whose mutation, file and test have not changed since.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
_COPIED = ("src", "tests", "scripts", "examples", "docs", "README.md", "Makefile", "pyproject.toml")
_RECORD = ROOT / ".mutants.jsonl"
_CPU_S = 300  # of one test: more, and the mutation made the code hang
_WALL_S = 3600
_NO_VERDICT = -1
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

    Args:
        arguments: Words to select by, and `--resume` to keep the verdicts of a run that was interrupted.

    Returns:
        0 if every mutation was noticed, else 1.
    """
    words = [word for word in arguments if word != "--resume"]
    mutants = [
        mutant
        for mutant in load_mutants()
        if not words or any(word in f"{mutant.file} {mutant.test}" for word in words)
    ]
    for problem in (problems := find_stale(mutants)):
        print(problem)
    if problems or not mutants:
        print("No mutation was applied.")
        return 1
    verdicts = read_verdicts() if "--resume" in arguments else {}
    _RECORD.write_text("".join(json.dumps(line) + "\n" for line in verdicts.items()), encoding="utf-8")
    survivors = [mutant for mutant in mutants if verdicts.get(identify(mutant)) == _SURVIVED]
    left = [mutant for mutant in mutants if identify(mutant) not in verdicts]
    if left:
        _preload()
        with tempfile.TemporaryDirectory(prefix="joyimage-mutants-") as folder:
            survivors += _try_mutants(left, _copy_project(Path(folder)))
    print(f"{len(mutants) - len(survivors)} of {len(mutants)} mutations were noticed.")
    for mutant in survivors:
        print(f"NOT NOTICED by {mutant.test}: {mutant.file}: {mutant.new!r}: {mutant.breaks}")
    return 1 if survivors else 0


def identify(mutant: Mutant, root: Path = ROOT, *, is_applied: bool = True) -> str:
    """Return what tells a mutation, the file that it breaks, and its test from what they were before.

    Args:
        mutant: The mutation.
        root: The project.
        is_applied: Whether it is the mutation; False for its test on sound code.
    """
    test = root / "tests" / mutant.test.partition("::")[0]
    changed = (
        [repr(mutant).encode(), (root / mutant.file).read_bytes()] if is_applied else [mutant.test.encode()]
    )
    parts = [*changed, test.read_bytes()]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def read_verdicts(path: Path = _RECORD) -> dict[str, int]:
    """Return the verdicts of an earlier run: exit codes by what `identify` returns."""
    if not path.is_file():
        return {}
    return dict(json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())


def _try_mutants(mutants: list[Mutant], copy: Path) -> list[Mutant]:
    """Apply mutations one by one, write down each verdict, and return those that were not noticed.

    A test that fails without any mutation notices nothing.
    """
    verdicts = read_verdicts()
    names = sorted({mutant.test for mutant in mutants if identify(mutant, is_applied=False) not in verdicts})
    failing: list[str] = []
    if names:
        code, output = _run(copy, names)
        failing = (copy.parent / "failing").read_text(encoding="utf-8").split() if code != _SURVIVED else []
        if failing:
            print(f"Tests that fail without any mutation: {failing}\n{output}", flush=True)
        passing = {
            identify(one, is_applied=False)
            for one in mutants
            if not any(one.test in name for name in failing)
        }
        _record(dict.fromkeys(passing, _SURVIVED))
    survivors = []
    for mutant in mutants:
        if any(mutant.test in name for name in failing):
            survivors.append(mutant)
            continue
        verdict = _try_mutant(copy, mutant)
        if verdict != _KILLED:
            survivors.append(mutant)
        if verdict in {_KILLED, _SURVIVED}:
            _record({identify(mutant): verdict})
    return survivors


def _record(verdicts: dict[str, int]) -> None:
    with _RECORD.open("a", encoding="utf-8") as record:
        record.writelines(json.dumps(line) + "\n" for line in verdicts.items())


def _try_mutant(copy: Path, mutant: Mutant) -> int:
    """Return the exit code of the test with the mutation applied."""
    path = copy / mutant.file
    text = path.read_text(encoding="utf-8")
    started = time.monotonic()
    path.write_text(text.replace(mutant.old, mutant.new), encoding="utf-8")
    try:
        code, output = _run(copy, [mutant.test], cpu_s=_CPU_S)
    finally:
        path.write_text(text, encoding="utf-8")
    verdict = {_KILLED: "noticed", _SURVIVED: "NOT NOTICED"}.get(code, f"no verdict, exit code {code}")
    print(f"{verdict:12} {time.monotonic() - started:5.1f} s  {mutant.file}: {mutant.new!r}", flush=True)
    if code not in {_KILLED, _SURVIVED}:
        print(output, flush=True)
    return code


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


def _run(copy: Path, tests: list[str], *, cpu_s: int | None = None) -> tuple[int, str]:
    """Run tests of the copy in a child and return its exit code and output.

    Args:
        copy: The project.
        tests: Names of tests.
        cpu_s: Processor time after which the mutation counts as noticed: it made the code hang. Not time by the
            clock, of which a busy machine needs more.
    """
    log_path = copy.parent / "log"
    child = os.fork()
    if child == 0:
        if cpu_s is not None:
            resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s + 5))
        os._exit(_run_here(copy, tests, log_path))
    end = time.monotonic() + _WALL_S
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
            output = log_path.read_text(errors="replace")[-4000:]
            return _KILLED if code in {-signal.SIGXCPU, -signal.SIGKILL} else code, output
        time.sleep(0.05)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return _NO_VERDICT, f"no end after {_WALL_S} s"


class _Failures:
    """Plugin for pytest that writes down which tests failed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.write_text("", encoding="utf-8")

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(report.nodeid + "\n")


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
    options: list[Any] = ["-q", "-p", "no:randomly", "-p", "no:cacheprovider", "-m", "not gpu"]
    if len(tests) == 1:
        options.append("-x")
    failures = _Failures(copy.parent / "failing")
    return int(pytest.main([*options, *(f"tests/{test}" for test in tests)], plugins=[failures]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
