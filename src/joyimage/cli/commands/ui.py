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
from joyimage.cli.surface import GROUPS

_LOOPBACK = "127.0.0.1"
_MODEL = Parameter(group=GROUPS["Model"])
_PAGE = Parameter(group=Group("Page", sort_key=10))


def ui(
    *,
    model: Annotated[str | None, _MODEL] = None,
    port: Annotated[int | None, _PAGE] = None,
    data_dir: Annotated[Path | None, _PAGE] = None,
    device: Annotated[str | None, _MODEL] = None,
    dtype: Annotated[str | None, _MODEL] = None,
    transformer: Annotated[Path | None, _MODEL] = None,
    text_encoder: Annotated[Path | None, _MODEL] = None,
    vae: Annotated[Path | None, _MODEL] = None,
    quantize: Annotated[str | None, _MODEL] = None,
    offload: Annotated[str | None, _MODEL] = None,
    base_size: Annotated[int | None, _MODEL] = None,
    lora: Annotated[list[str] | None, _MODEL, Parameter(negative=[])] = None,
    browser: Annotated[bool, _PAGE] = True,
) -> None:
    """Start a server on this machine and open its page in the browser.

    Only this machine can reach the server. If a joyimage server already listens on the port, its page is opened.

    Args:
        model: Checkpoint folder, hub id, or "tiny"; the published one on a GPU, else tiny.
        port: Port to listen on; 8600 if not given, 0 for a free one.
        data_dir: Folder of records, images and results.
        device: Such as "cuda" or "cpu".
        dtype: "bfloat16", "float16", "float32" or "auto" (measured on a CPU).
        transformer: Weight file of the transformer: safetensors (also int8, fp8, nvfp4, nf4) or GGUF.
        text_encoder: Weight file of the text encoder.
        vae: Weight file of the VAE.
        quantize: "int8", "fp8" or "nf4" quantizes large layers while loading; "none" decodes quantized files.
        offload: Memory plan: "none", "model", "block", "disk" or "auto", the fastest that fits and the default.
        base_size: Side of the square size that the trained sizes derive from.
        lora: NAME=PATH of an adapter that the page offers; may be given several times.
        browser: Open the page in a browser; else only print its address.

    Raises:
        ValueError: An option is out of range, the port is taken, or packages are missing.
    """
    check_packages()
    given = {
        "model": model,
        "port": port,
        "data_dir": data_dir,
        "device": device,
        "dtype": dtype,
        "transformer": transformer,
        "text_encoder": text_encoder,
        "vae": vae,
        "quantize": quantize,
        "offload": offload,
        "base_size": base_size,
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
