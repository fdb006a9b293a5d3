"""One small dataset, untrained model and index for every test of the service."""

from __future__ import annotations

import contextlib
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from crystalign.index.manifest import IndexManifest
from crystalign.index.search import Segment
from crystalign.material import Material
from crystalign.model import Model, load
from small_service import Places, build, embed, fine_tune, salts


@pytest.fixture(scope="session")
def materials() -> list[Material]:
    return salts()


@pytest.fixture(scope="session")
def places(materials: list[Material], tmp_path_factory: pytest.TempPathFactory) -> Places:
    """A dataset in two shards, an untrained model, an index in four segments."""
    return build(tmp_path_factory.mktemp("service"), materials)


@pytest.fixture(scope="session")
def embed_crystals() -> Callable[[Model, str, str, str], None]:
    """Embed a dataset: (model, dataset, the model's URI, where to)."""
    return embed


@pytest.fixture(scope="session")
def models(places: Places, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder of three fine-tuned models: of the formula, the pattern, and a spectrum that no structure tells."""
    return fine_tune(places.dataset, tmp_path_factory.mktemp("predictors"))


@pytest.fixture(scope="session")
def segments(places: Places) -> list[Segment]:
    manifest = IndexManifest.read(places.index)
    return [Segment.load(places.index, manifest, [entry]) for entry in manifest.segments]


@pytest.fixture(scope="session")
def http(places: Places, segments: list[Segment]) -> Iterator[TestClient]:
    """The API over one process, without Ray."""
    from crystalign.model_description import read_description
    from crystalign_serve.api import build_api
    from crystalign_serve.backend import LocalBackend
    from crystalign_serve.service import open_service

    described = read_description(places.model)
    config, card = described.config, described.card
    manifest = IndexManifest.read(places.index)
    lexicon = manifest.read_lexicon(places.index)
    service = open_service(manifest, config, card, dataset_uri=None, shards=len(segments), lexicon=lexicon)
    with TestClient(build_api(service, LocalBackend(load(places.model), segments))) as client:
        yield client


@pytest.fixture(scope="session")
def beside(places: Places, segments: list[Segment], models: str) -> Iterator[TestClient]:
    """The same with fine-tuned models beside the index."""
    from crystalign.model_description import read_description
    from crystalign_serve.api import build_api
    from crystalign_serve.backend import LocalBackend
    from crystalign_serve.predictions import LocalPredictors, find_models
    from crystalign_serve.service import open_service

    found, described = find_models(models)
    model = read_description(places.model)
    known = {"dataset_uri": None, "shards": len(segments), "models": described}
    service = open_service(IndexManifest.read(places.index), model.config, model.card, **known)
    backend = LocalBackend(load(places.model), segments)
    with TestClient(build_api(service, backend, LocalPredictors(found))) as client:
        yield client


# --- a browser --------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _serve(app: Any) -> Iterator[str]:
    """The address at which an application answers, while it does."""
    import uvicorn

    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(timeout=30)


@pytest.fixture(scope="session")
def served() -> Callable[[Any], contextlib.AbstractContextManager[str]]:
    """Serve an application on a free port, while a `with` block runs."""
    return _serve


_FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --use-angle=swiftshader --enable-unsafe-swiftshader"
)


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed: pip install selenium")
    names = ("chromium", "chromium-browser", "google-chrome")
    browser = next((found for name in names if (found := shutil.which(name))), None)
    helper = shutil.which("chromedriver")
    if browser is None or helper is None:
        pytest.skip("no Chromium with chromedriver on the PATH")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in [*_FLAGS.split(), f"--user-data-dir={tmp_path_factory.mktemp('profile')}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    made = webdriver.Chrome(options=options, service=webdriver.ChromeService(helper))
    yield made
    made.quit()


class Browser:
    """The page, as a user handles it."""

    def __init__(self, driver: Any, url: str) -> None:
        self.driver = driver
        self.url = url

    def open(self, path: str = "/", width: int = 1280) -> None:
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        self.driver.get("about:blank")
        self.driver.get(self.url + path)
        self.until(".example")

    def all(self, selector: str) -> list[Any]:
        return self.driver.find_elements("css selector", selector)

    def wait(self, condition: Callable[[], Any]) -> Any:
        from selenium.webdriver.support.ui import WebDriverWait

        return WebDriverWait(self.driver, 60).until(lambda _: condition())

    def until(self, selector: str) -> Any:
        return self.wait(lambda: self.all(selector))[0]

    def run(self, script: str, *values: Any) -> Any:
        return self.driver.execute_script(script, *values)

    def search(self, text: str) -> None:
        box = self.until("#box")
        box.clear()
        box.send_keys(text + "\n")

    def drop(self, name: str, content: str) -> None:
        script = """const data = new DataTransfer();
          data.items.add(new File([arguments[1]], arguments[0]));
          window.dispatchEvent(new DragEvent("drop", {dataTransfer: data, cancelable: true}));"""
        self.run(script, name, content)

    def ids(self) -> list[str]:
        return [card.get_attribute("data-id") for card in self.all(".card[data-id]")]

    def errors(self) -> list[str]:
        logs = self.driver.get_log("browser")
        return [entry["message"] for entry in logs if entry["level"] == "SEVERE" and "422" not in entry["message"]]

    def scrolls_sideways(self) -> bool:
        return bool(self.run("return document.documentElement.scrollWidth > innerWidth"))


@pytest.fixture(scope="session")
def page_at(driver: Any) -> Callable[[str], Browser]:
    """The page of a service at an address."""
    return lambda url: Browser(driver, url)
