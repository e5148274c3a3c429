"""A server with the tiny model, a real Chromium, and pages that must neither complain nor call elsewhere."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from tests.web.parts import Server, Visitor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from playwright.sync_api import Browser, BrowserContext, Page

_PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
# Pop-ups of the address bar, which no test sees: each window had a process of its own for them, which took a fifth of
# the tests' time. Chromium reads the last list only, so Playwright's own is repeated.
_FEATURES_OFF = [
    *("WebUIOmniboxPopup", "WebUIOmniboxAimPopup"),
    *("AvoidUnnecessaryBeforeUnloadCheckSync", "DestroyProfileOnBrowserClose", "HttpsUpgrades"),
    *("HttpsFirstBalancedModeAutoEnable", "LensOverlay", "MediaRouter", "PaintHolding", "OptimizationHints"),
    *("ThirdPartyStoragePartitioning", "AvoidCorsURLLoaderRestartOnRedirect", "NetworkTimeServiceQuerying"),
    *("AimEnabled", "PreconnectToSearch"),
]
_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    f"--disable-features={','.join(_FEATURES_OFF)}",
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    missing = pytest.mark.skip(reason="no Chromium: apt-get install chromium")
    for item in items:
        if "tests/web/" in item.path.as_posix():
            item.add_marker(pytest.mark.web)
            if _PROGRAM is None and "browser" in getattr(item, "fixturenames", ()):
                item.add_marker(missing)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that tests share."""
    server = Server(tmp_path_factory.mktemp("page"))
    yield server
    server.stop()


@pytest.fixture(scope="module")  # its event loop, while it runs, would be in the way of other tests' own
def browser() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=_PROGRAM, args=_ARGUMENTS)
        yield browser
        browser.close()


class Complaints:
    """What a page complained about, and whom it called."""

    def __init__(self) -> None:
        self.found: list[str] = []
        self.hosts: set[str] = set()
        # Chromium itself reports answers that are no success, and none; a test that provokes them says so.
        self.expects_failed_requests = False

    def watch(self, page: Page) -> None:
        page.on("console", lambda message: self._note(message.type, message.text))
        page.on("pageerror", lambda error: self.found.append(str(error)))
        page.on("request", lambda request: self.hosts.add(urlsplit(request.url).netloc))

    def _note(self, kind: str, text: str) -> None:
        is_expected = self.expects_failed_requests and text.startswith("Failed to load resource")
        if kind in {"error", "warning"} and not is_expected:
            self.found.append(text)


@pytest.fixture
def complaints() -> Iterator[Complaints]:
    complaints = Complaints()
    yield complaints
    assert complaints.found == []
    assert len(complaints.hosts - {""}) <= 1  # blob: and data: have none


@pytest.fixture
def contexts(browser: Browser, complaints: Complaints) -> Iterator[Callable[..., BrowserContext]]:
    """Browsers that know nothing of each other, and every page in them watched."""
    made: list[BrowserContext] = []

    def make(**options: object) -> BrowserContext:
        given: dict[str, object] = {"viewport": {"width": 1440, "height": 900}, "reduced_motion": "reduce"}
        context = browser.new_context(**{**given, **options})  # type: ignore[arg-type]
        context.on("page", complaints.watch)
        made.append(context)
        return context

    yield make
    for context in made:
        context.close()


@pytest.fixture
def visit(contexts: Callable[..., BrowserContext], server: Server) -> Callable[..., Visitor]:
    """Open the page in a new browser."""

    def open_page(at: Server = server, **options: object) -> Visitor:
        return Visitor(contexts(**options).new_page(), at).open()

    return open_page
