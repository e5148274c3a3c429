"""`joyimage ui`: the page, opened."""

from __future__ import annotations

import json
import urllib.request
import webbrowser
from pathlib import Path
from threading import Thread
from typing import Annotated
from urllib.error import URLError

from cyclopts import Group, Parameter

from joyimage.cli.commands.serve import check_packages, make_settings, parse_loras, run_server
from joyimage.cli.console import notify
from joyimage.cli.options import SizedModelOptions
from joyimage.cli.surface import GROUPS

_LOOPBACK = "127.0.0.1"
_MODEL = Parameter(group=GROUPS["Model"])
_PAGE = Parameter(group=Group("Page", sort_key=10))


def ui(
    *,
    options: SizedModelOptions | None = None,
    port: Annotated[int | None, _PAGE] = None,
    data_dir: Annotated[Path | None, _PAGE] = None,
    lora: Annotated[list[str] | None, _MODEL, Parameter(negative=[])] = None,
    browser: Annotated[bool, _PAGE] = True,
) -> None:
    """Start a server on this machine and open its page in the browser.

    Only this machine can reach the server. If a joyimage server already listens on the port, its page is opened.

    Args:
        options: Which model is loaded, and how.
        port: Port to listen on; 0 picks a free one. Default: 8600.
        data_dir: Folder for records, images and results. Default: ~/.local/share/joyimage.
        lora: NAME=PATH of an adapter that the page offers; may be given several times.
        browser: Open the page in a browser; otherwise only print its address.

    Raises:
        ValueError: An option is out of range, the port is taken, or packages are missing.
    """
    options = options or SizedModelOptions()
    options.check()
    check_packages()
    given = {
        **options.given(),
        "port": port,
        "data_dir": data_dir,
        "loras": None if lora is None else parse_loras(lora),
    }
    settings = make_settings(
        {"host": _LOOPBACK, **{name: value for name, value in given.items() if value is not None}}
    )
    url = f"http://{_LOOPBACK}:{settings.port}"
    if settings.port and _is_ours(url):
        notify(f"A server of joyimage listens on {url} already; this is its page.")
        if browser:
            _open(url)
        return
    if browser:
        # In a thread: some browsers return only when they are closed.
        run_server(settings, listening_on=lambda url: Thread(target=_open, args=(url,), daemon=True).start())
    else:
        run_server(settings)


def _open(url: str) -> None:
    """Open the page, or say where it is where no browser can be started."""
    if not webbrowser.open(url):
        notify(f"No browser could be opened; open {url} in yours.")


def _is_ours(url: str) -> bool:
    """Tell whether a server of joyimage answers there."""
    try:
        with urllib.request.urlopen(f"{url}/healthz", timeout=2) as answer:
            return json.load(answer).get("status") == "alive"
    except (URLError, OSError, ValueError, AttributeError):
        return False
