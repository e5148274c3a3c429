"""`joyimage --install-completion`: show what would be written, ask, then write it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from joyimage.cli.console import notify
from joyimage.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from cyclopts import App

Shell = Literal["bash", "zsh", "fish"]
_MARK = "# joyimage: completion of its commands"


def make_installer(app: App) -> Callable[..., None]:
    """Return the command that installs the completion of `app`."""

    def install_completion(
        *,
        shell: Annotated[
            Shell | None, Parameter(help="Default: the shell that runs this command.", show_default=False)
        ] = None,
        output: Annotated[
            Path | None,
            Parameter(name=["--output", "-o"], help="Write the script to this file and change nothing else."),
        ] = None,
        yes: Annotated[
            bool, Parameter(name=["--yes", "-y"], help="Do not ask.", negative=[], show_default=False)
        ] = False,
    ) -> None:
        """Complete commands and options in the shell; shows which files change, and asks first.

        Raises:
            InvalidInputError: The shell is unknown, or there is no terminal to ask for confirmation.
            ImageError: A file cannot be written.
        """
        # Loaded here: `joyimage --help` needs no image library.
        from joyimage.imaging import write_text, write_whole

        name = shell or _find_shell()
        script = app.generate_completion(shell=name)
        if output is not None:
            write_text(output, script)
            print(output)
            return
        target, startup, line = _plan(name)
        notify(f"This writes {target}.")
        is_new = startup is not None and line.encode() not in _content(startup)
        if is_new:
            notify(f"This adds to {startup}: {line.replace(chr(10), '; ')}")
        if not yes and not _is_confirmed():
            notify("Nothing was changed.")
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        write_text(target, script)
        if startup is not None and is_new:
            content = _content(startup)
            gap = b"" if not content or content.endswith(b"\n") else b"\n"
            added = content + gap + f"{_MARK}\n{line}\n".encode()
            write_whole(startup, lambda file: file.write(added))
        print(target)
        notify(f"Start a new {name} to use it.")

    return install_completion


def _find_shell() -> Shell:
    """Return the shell that runs this command.

    Raises:
        InvalidInputError: It is none of the three.
    """
    from cyclopts.completion.detect import ShellDetectionError, detect_shell

    try:
        found = detect_shell()
    except ShellDetectionError:
        found = None
    if found not in {"bash", "zsh", "fish"}:
        raise InvalidInputError("`--shell` is missing and the shell is not known; give bash, zsh or fish.")
    return found  # pyright: ignore[reportReturnType]


def _plan(shell: Shell) -> tuple[Path, Path | None, str]:
    """Return the script's file, the shell's startup file (None where none changes), and what is added to it.

    Raises:
        InvalidInputError: The user has no home folder.
    """
    try:
        home = Path.home()
    except RuntimeError:
        raise InvalidInputError(
            "This user has no home folder to install in; write the script to a file with `--output FILE`."
        ) from None
    if shell == "fish":
        config = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config")
        return config / "fish" / "completions" / "joyimage.fish", None, ""
    if shell == "zsh":
        folder = home / ".zsh" / "completions"
        line = f'fpath=("{folder}" $fpath)\nautoload -Uz compinit && compinit'
        return folder / "_joyimage", Path(os.environ.get("ZDOTDIR") or home) / ".zshrc", line
    data = Path(os.environ.get("XDG_DATA_HOME") or home / ".local" / "share")
    target = data / "bash-completion" / "completions" / "joyimage"
    return target, home / ".bashrc", f'[ -f "{target}" ] && . "{target}"'


def _is_confirmed() -> bool:
    """Ask on the terminal.

    Raises:
        InvalidInputError: There is no terminal.
    """
    if not sys.stdin.isatty():
        raise InvalidInputError(
            "Nothing was changed: there is no terminal to ask for confirmation. Add `--yes` to confirm."
        )
    print("Continue? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in {"y", "yes"}


def _content(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""
