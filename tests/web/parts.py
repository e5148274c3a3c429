"""Pieces that the tests of the page share: servers in processes of their own, and hands on the page."""

from __future__ import annotations

import socket
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2
from PIL import Image
from playwright.sync_api import expect

from tests.forked import start_command
from tests.serving.parts import wait_for

if TYPE_CHECKING:
    from playwright.sync_api import FilePayload, Locator, Page

# Whether a reload finds the open project with its images, and the controls with the values that are given.
_IS_STORED = """async (values) => {
    const tab = JSON.parse(localStorage.getItem(`joyimage-tab-${sessionStorage.getItem("joyimage-session")}`));
    if (!tab?.project || Object.entries(values).some(([id, value]) => tab.form[id] !== value)) return false;
    const finish = (request) => new Promise((resolve, reject) => {
        request.onsuccess = () => resolve(request.result);
        request.onerror = () => reject(request.error);
    });
    const database = await finish(indexedDB.open("joyimage", 2));
    const look = database.transaction(["projects", "pictures"]);
    const [project, keys] = await Promise.all([
        finish(look.objectStore("projects").get(tab.project)),
        finish(look.objectStore("pictures").getAllKeys()),
    ]);
    database.close();
    const ids = project?.attempts.flatMap(({ pictures }) => pictures) ?? [];
    return ids.length > 0 && ids.every((id) => keys.includes(`${tab.project}/${id}`));
}"""
EXAMPLES = Path(__file__).parents[2] / "src/joyimage/web/static/examples"
# A busy machine of two cores takes seconds for a tiny edit.
PATIENCE_MS = 60_000


class Server:
    """`joyimage serve` with the tiny model, in a process that can die and come back on the same port."""

    def __init__(self, folder: Path, *arguments: object, **environment: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        options = ["--port", port, "--data-dir", folder / "data", "--model", "tiny", "--device", "cpu"]
        self._arguments = (*options, *arguments)
        self._environment = environment
        self._log_path = folder / "log"
        self.start()

    def start(self) -> None:
        self._process = start_command(
            "serve", *self._arguments, log_path=self._log_path, environment=self._environment
        )
        wait_for(self._is_ready, 120)

    def _is_ready(self) -> bool:
        assert self._process.is_alive(), self._log_path.read_text()
        try:
            return httpx2.get(f"{self.url}/healthz", timeout=5).json()["is_ready"]
        except httpx2.HTTPError:
            return False

    def kill(self) -> None:
        """End it as a power cut does."""
        self._process.kill()
        self._process.join()

    def stop(self) -> None:
        self._process.terminate()
        self._process.join(timeout=60)

    def jobs(self) -> list[dict[str, Any]]:
        """All its jobs, newest first: the tests of a process share a server, and one answer holds some."""
        found: list[dict[str, Any]] = []
        while True:
            after = {"after": found[-1]["id"]} if found else {}
            answer = httpx2.get(f"{self.url}/v1/jobs", params=after, timeout=30).json()
            found += answer["data"]
            if not answer["has_more"]:
                return found


def find_faults(page: Page) -> list[str]:
    """Return axe-core's serious findings."""
    if not page.evaluate("() => 'axe' in window"):
        axe = files("axe_playwright_python").joinpath("axe.min.js").read_text(encoding="utf-8")
        page.evaluate(axe)  # through the debugger: the page's own policy forbids it
    found: dict[str, Any] = page.evaluate("() => axe.run({ resultTypes: ['violations'] })")
    return [
        f"{fault['id']}: {node['target']} {node['failureSummary']}"
        for fault in found["violations"]
        if fault["impact"] in {"serious", "critical"}
        for node in fault["nodes"]
    ]


class Visitor:
    """Somebody in front of the page."""

    def __init__(self, page: Page, server: Server) -> None:
        self.page = page
        self.server = server

    def open(self) -> Visitor:
        self.page.goto(self.server.url)
        self.page.wait_for_selector("html[data-started]", state="attached")
        return self

    def reload(self) -> None:
        """Reload, and wait until what was saved is back."""
        self.page.reload()
        self.page.wait_for_selector("html[data-started]", state="attached")

    def wait_until_stored(self, **values: str) -> None:
        """Wait until a reload finds the project with its images, and controls with these values, by id."""
        self.wait_until(_IS_STORED, values)

    def wait_until(self, script: str, argument: object = None) -> None:
        """Wait until an asynchronous function is true: to Playwright's `wait_for_function`, its promise is."""
        wait_for(lambda: self.page.evaluate(script, argument), PATIENCE_MS / 1000)

    def see(self, selector: str) -> Locator:
        found = self.page.locator(selector)
        found.wait_for(state="visible", timeout=PATIENCE_MS)
        return found

    def choose_mode(self, mode: str) -> None:
        self.page.locator(f'#modes input[value="{mode}"]').check(force=True)

    def choose_view(self, view: str) -> None:
        self.page.locator(f'#views input[value="{view}"]').check(force=True)

    def choose_file(self, file: Path | FilePayload) -> None:
        with self.page.expect_file_chooser() as chooser:
            self.page.locator("#choose:visible, #replace:visible").first.click()
        chooser.value.set_files(file)

    def choose_example(self, name: str) -> None:
        self.page.click(f'[data-example="{name}"]')
        self.see("#stage-bar")

    def set(self, name: str, value: object) -> None:
        """Fill a setting in, opening what it is folded into."""
        self.unfold()
        self.page.fill(f"#{name}", str(value))

    def unfold(self) -> None:
        """Open what settings are folded into."""
        self.page.evaluate(
            "document.querySelectorAll('#settings, .advanced').forEach((one) => one.open = true)"
        )

    def draw(self, left: float, top: float, right: float, bottom: float) -> None:
        """Draw with the mouse, in fractions of the picture."""
        (x0, y0), (x1, y1) = self.place(left, top), self.place(right, bottom)
        self.drag(x0, y0, x1, y1)

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Where a fraction of the picture is on the screen."""
        bounds = self.see("#box-layer").bounding_box()
        assert bounds is not None
        return bounds["x"] + x * bounds["width"], bounds["y"] + y * bounds["height"]

    def drag(self, x0: float, y0: float, x1: float, y1: float) -> None:
        self.page.mouse.move(x0, y0)
        self.page.mouse.down()
        self.page.mouse.move((x0 + x1) / 2, (y0 + y1) / 2)
        self.page.mouse.move(x1, y1)
        self.page.mouse.up()

    def touch(self, frames: list[list[tuple[float, float]]]) -> None:
        """Touch the screen: the first frame puts the fingers down, the others move them."""
        device = self.page.context.new_cdp_session(self.page)
        for n, frame in enumerate([*frames, []]):
            kind = "touchEnd" if not frame else "touchMove" if n else "touchStart"
            points = [{"x": x, "y": y} for x, y in frame]
            device.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    def box(self) -> list[int]:
        """The box by its numbers: left, top, width, height."""
        return [int(self.page.input_value(f"#box-{side}")) for side in ("left", "top", "width", "height")]

    def expect_name(self, words: str) -> None:
        """Wait until the image on the stage has a name with these words."""
        expect(self.page.locator("#picture-name")).to_contain_text(words)

    def expect_model(self) -> None:
        """Wait until the page knows the server's model."""
        expect(self.page.locator("#model-chip")).to_contain_text("tiny")

    def run(self) -> None:
        """Run, and wait for the result."""
        before = self.page.locator("#result").get_attribute("data-job")
        self.page.click("#run")
        self.page.wait_for_function(
            """(before) => document.querySelector("#progress").hidden
                && document.querySelector("#result").dataset.job !== before""",
            arg=before,
            timeout=PATIENCE_MS,
            polling=100,  # at every frame, as by default, would have the page draw all the time
        )

    def wait_until_idle(self) -> None:
        self.page.wait_for_function("() => document.querySelector('#progress').hidden", timeout=PATIENCE_MS)

    def download(self, path: Path) -> Image.Image:
        """Save the result that is shown."""
        with self.page.expect_download() as download:
            self.page.click("#download")
        download.value.save_as(path)
        picture = Image.open(path)
        picture.load()
        return picture
