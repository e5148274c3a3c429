"""`joyimage download` from a small hub on this machine."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CHUNK = 10 * 2**20  # what huggingface_hub writes at once
WEIGHTS = bytes(range(256)) * 4096
LARGE_WEIGHTS = WEIGHTS * 24
FOLDER = {
    "model_index.json": b'{"_class_name": "JoyImageEditPipeline"}',
    "transformer/config.json": b"{}",
    "transformer/diffusion_pytorch_model.safetensors": WEIGHTS,
    "assets/example.png": b"an image",
    "pytorch_model.bin": b"a pickle",
}
FILES = {
    "split_files/diffusion_models/joyai_image_edit_int8_convrot.safetensors": LARGE_WEIGHTS,
    "split_files/text_encoders/qwen3vl_8b_joyimage_edit_int8_convrot.safetensors": WEIGHTS[1:],
    "split_files/vae/wan_2.1_vae.safetensors": WEIGHTS[2:],
    "split_files/diffusion_models/joyai_image_edit_bf16.safetensors": WEIGHTS[3:],
}
REPOSITORIES = {"jdopensource/JoyAI-Image-Edit-Diffusers": FOLDER, "Comfy-Org/JoyAI-Image-Edit": FILES}


class Hub(ThreadingHTTPServer):
    """Serves what huggingface_hub asks for.

    Attributes:
        sent: What each file's content is in answers; the repository's own if a file is missing here.
        cut_at: Bytes after which the connection breaks off; None for whole answers.
        starts: First byte of each answer with content.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.sent: dict[str, bytes] = {}
        self.cut_at: int | None = None
        self.starts: list[tuple[str, int]] = []


class _Handler(BaseHTTPRequestHandler):
    @property
    def hub(self) -> Hub:
        assert isinstance(self.server, Hub)
        return self.server

    def do_GET(self) -> None:
        path = self.path.partition("?")[0].strip("/")
        for repository, files in REPOSITORIES.items():
            if path.startswith(f"api/models/{repository}"):
                return self._send(json.dumps(describe(repository, files)).encode())
            prefix = f"{repository}/resolve/{COMMIT}/"
            if path.startswith(prefix) and path.removeprefix(prefix) in files:
                return self._send_file(path.removeprefix(prefix), files)
        self.send_response(404)
        self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("Content-Length", "0")
        self.end_headers()
        return None

    def _send_file(self, name: str, files: dict[str, bytes]) -> None:
        content = self.hub.sent.get(name, files[name])
        wanted = self.headers.get("Range")
        start = int(wanted.removeprefix("bytes=").partition("-")[0]) if wanted else 0
        self.hub.starts.append((name.rpartition("/")[2], start))
        self._send(content[start:], total=len(content) if wanted else None, start=start)

    def _send(self, content: bytes, total: int | None = None, start: int = 0) -> None:
        self.send_response(200 if total is None else 206)
        self.send_header("Content-Length", str(len(content)))
        if total is not None:
            self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        self.end_headers()
        cut_at = self.hub.cut_at
        if cut_at is not None and len(content) > cut_at:
            self.wfile.write(content[:cut_at])
            self.hub.cut_at = 0  # every further attempt breaks off at once
            self.close_connection = True
            return
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing."""


def describe(repository: str, files: dict[str, bytes]) -> dict[str, Any]:
    """Return what the hub's API says about a repository: large files with sha256, small ones with git's sha1."""
    siblings = []
    for name, content in files.items():
        blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        entry: dict[str, Any] = {"rfilename": name, "size": len(content), "blobId": blob}
        if name.endswith(".safetensors"):
            sha256 = hashlib.sha256(content).hexdigest()
            entry["lfs"] = {"sha256": sha256, "size": len(content), "pointerSize": 130}
        siblings.append(entry)
    return {"_id": "1", "id": repository, "modelId": repository, "sha": COMMIT, "siblings": siblings}


@pytest.fixture
def hub() -> Iterator[Hub]:
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def download(
    hub: Hub | None, folder: Path, *arguments: object, offline: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own: huggingface_hub reads its settings when it is imported."""
    address = "http://127.0.0.1:9" if hub is None else f"http://127.0.0.1:{hub.server_port}"
    environment = {"HF_ENDPOINT": address, "HF_HUB_OFFLINE": str(int(offline)), "HF_HUB_DISABLE_XET": "1"}
    return subprocess.run(
        [sys.executable, "-m", "joyimage.cli.main", "download", *map(str, arguments)],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_download_when_the_folder_is_asked_for_then_its_files_are_in_place_and_a_second_run_fetches_nothing(
    hub: Hub, tmp_path: Path
) -> None:
    result = download(hub, tmp_path, "bf16")

    assert result.returncode == 0, result.stderr
    folder = tmp_path / "JoyAI-Image-Edit-Diffusers"
    written = {
        str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }
    assert written == {name: FOLDER[name] for name in list(FOLDER)[:3]}
    assert result.stdout.split() == [f"JoyAI-Image-Edit-Diffusers/{name}" for name in list(FOLDER)[:3]]
    assert "--model JoyAI-Image-Edit-Diffusers" in result.stderr
    assert "transformer/diffusion_pytorch_model.safetensors (3 of 3, 1.0 MB)" in result.stderr
    count = len(hub.starts)

    result = download(hub, tmp_path, "bf16")
    assert result.returncode == 0, result.stderr
    assert len(hub.starts) == count


def test_download_when_interrupted_then_the_same_command_continues_where_it_broke_off(
    hub: Hub, tmp_path: Path
) -> None:
    hub.cut_at = 2 * CHUNK + 5
    result = download(hub, tmp_path, "int8", "--output", "weights")

    assert result.returncode == 2
    assert "Run the same command again to continue." in result.stderr
    assert "Traceback" not in result.stderr
    assert not list((tmp_path / "weights").rglob("*.safetensors"))

    hub.cut_at, hub.starts = None, []
    result = download(hub, tmp_path, "int8", "--output", "weights")
    assert result.returncode == 0, result.stderr
    assert hub.starts[0] == ("joyai_image_edit_int8_convrot.safetensors", 2 * CHUNK)
    for name in list(FILES)[:3]:
        assert (tmp_path / "weights" / name).read_bytes() == FILES[name]
    assert sorted(path.name for path in (tmp_path / "weights").iterdir()) == ["split_files"]
    assert "--vae weights/split_files/vae/wan_2.1_vae.safetensors" in result.stderr


def test_download_when_the_content_is_damaged_then_it_is_removed_and_said(hub: Hub, tmp_path: Path) -> None:
    name = next(iter(FILES))
    hub.sent[name] = b"!" + FILES[name][1:]
    arguments = ("Comfy-Org/JoyAI-Image-Edit", "--file", name.rpartition("/")[2], "-o", "weights")

    result = download(hub, tmp_path, *arguments)

    assert result.returncode == 2
    assert "does not have the checksum that the hub states, so it was removed" in result.stderr
    assert not [path for path in (tmp_path / "weights").rglob("*") if path.is_file()]
    hub.sent.clear()
    result = download(hub, tmp_path, *arguments)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "weights" / name).read_bytes() == FILES[name]


def test_download_when_another_file_has_the_name_then_it_is_kept(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text("mine")

    result = download(hub, tmp_path, "bf16", "--output", ".")

    assert result.returncode == 2
    assert "is not the file of that name on the hub" in result.stderr
    assert (tmp_path / "model_index.json").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "offline", "message"),
    [
        (["int8"], True, r"The hub is switched off (HF_HUB_OFFLINE=1): unset it."),
        (["int8"], False, r"The hub cannot be reached. Nothing was downloaded."),
        (["nothing"], False, r"`WHAT` is 'nothing'; expected bf16, plus, int8, bf16-files, or a hub id"),
    ],
)
def test_download_when_it_cannot_be_done_then_one_sentence_says_why_and_what_is_needed(
    arguments: list[str], offline: bool, message: str, tmp_path: Path
) -> None:
    result = download(None, tmp_path, *arguments, offline=offline)

    assert result.returncode == 2
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    if arguments == ["int8"]:
        assert "joyai_image_edit_int8_convrot.safetensors (16.4 GB), qwen3vl_8b" in result.stderr
        assert "(10.1 GB), wan_2.1_vae.safetensors (0.2 GB)" in result.stderr
    assert not list(tmp_path.iterdir())


def test_download_when_the_hub_lacks_the_repository_or_file_then_said(hub: Hub, tmp_path: Path) -> None:
    result = download(hub, tmp_path, "missing/model")
    assert result.returncode == 2
    assert "The hub has no such public model. Nothing was downloaded." in result.stderr

    result = download(hub, tmp_path, "Comfy-Org/JoyAI-Image-Edit", "--file", "fp8.safetensors")
    assert result.returncode == 2
    assert "Comfy-Org/JoyAI-Image-Edit has no file fp8.safetensors; it has " in result.stderr
