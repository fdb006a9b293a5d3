"""One small dataset, untrained model and index for every test of the service."""

from __future__ import annotations

import contextlib
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient

from crystalign.crystal import Crystal
from crystalign.index.build import build_index
from crystalign.index.embeddings import LIGHT_COLUMNS, EmbeddingManifest, Making, embedding_table, write_embeddings
from crystalign.index.manifest import IndexManifest
from crystalign.index.search import Segment
from crystalign.material import Material, Provenance
from crystalign.modalities.composition import Composition
from crystalign.modalities.dos import DensityOfStates
from crystalign.modalities.text import Text
from crystalign.model import Model, ModelConfig, load, prepare
from crystalign.model_config import ModalitySpec, ModelCard
from crystalign.physics.diffraction import powder_peaks
from crystalign.properties import PropertySpec, Quantity
from crystalign.shards.dataset import Dataset
from crystalign.shards.writer import commit_manifest, write_shard

GAP = PropertySpec(quantity=Quantity.BAND_GAP, method="pbe", source="test", vintage="1")
ENERGIES = np.linspace(-12.0, 12.0, 481)


class Places(NamedTuple):
    """Where the parts of the small service are."""

    dataset: str
    model: str
    index: str


def salts() -> list[Material]:
    """Forty salts in the CsCl structure, with everything but a charge density; every fifth has no gap."""
    materials = []
    for number, (a, b) in enumerate((a, b) for a in (3, 11, 19, 37, 55, 12, 20, 38) for b in (8, 9, 16, 17, 35)):
        crystal = Crystal(np.eye(3) * (3.0 + a / 40), np.array([[0, 0, 0], [0.5] * 3]), np.array([a, b]))
        density = np.exp(-((ENERGIES + 2 + number / 20) ** 2)) + np.exp(-((ENERGIES - 3) ** 2))
        modalities = {
            "composition": Composition.of(crystal),
            "text": Text(f"{crystal.formula}, a cubic salt, cell {number}"),
            "xrd": powder_peaks(crystal),
            "dos": DensityOfStates(ENERGIES, density, 2).standardised(),
        }
        properties = {} if number % 5 == 0 else {GAP: number / 10}
        known = {"spacegroup_number": 221, "prototype": "AB:221:a.b"}
        provenance = Provenance("test", "CC-BY-4.0", "1", "made for tests")
        materials.append(Material(f"salt/{number:02d}", crystal, provenance, modalities, properties, **known))
    return materials


def tiny_config() -> ModelConfig:
    """Five modalities in 16 dimensions; none reads a charge density."""
    return ModelConfig(
        embedding_dim=16,
        modalities={
            "crystal": ModalitySpec(encoder="gated-graph", options={"hidden": 8, "layers": 1}),
            "dos": ModalitySpec(encoder="dos-transformer", options={"hidden": 16, "layers": 1, "patch": 10}),
            "xrd": ModalitySpec(encoder="xrd-resnet", options={"channels": (4, 4, 4, 4), "hidden": 8}),
            "text": ModalitySpec(encoder="bert", options={"hidden": 16, "layers": 1, "vocabulary": 100}),
            "composition": ModalitySpec(encoder="composition-transformer", options={"hidden": 16, "layers": 1}),
        },
    )


def embed(model: Model, places: Places, uri: str) -> None:
    """What `crystalign embed` does, in this process."""
    dataset = Dataset.open(places.dataset)
    making = Making(model_sha256=model.sha256, dataset_sha256=dataset.manifest.sha256, modality="crystal")
    files = []
    for shard, entry in enumerate(dataset.manifest.shards):
        table = dataset.read(shard, columns=[*LIGHT_COLUMNS, GAP.column, "crystal"])
        crystals = [material.crystal for material in dataset.materials()][
            sum(e.rows for e in dataset.manifest.shards[:shard]) :
        ]
        vectors = model.embed("crystal", crystals[: entry.rows])
        written = embedding_table(table, vectors, shard=shard, positions=range(entry.rows), properties=(GAP,))
        files.append(write_embeddings(uri, f"shard-{shard}", written, making))
    EmbeddingManifest(
        model_uri=places.model,
        model_sha256=model.sha256,
        modality="crystal",
        dimension=16,
        dataset_uri=places.dataset,
        dataset_sha256=dataset.manifest.sha256,
        rows=dataset.manifest.rows,
        properties=(GAP,),
        licences=("CC-BY-4.0",),
        files=tuple(files),
    ).write(uri)


@pytest.fixture(scope="session")
def materials() -> list[Material]:
    return salts()


@pytest.fixture(scope="session")
def places(materials: list[Material], tmp_path_factory: pytest.TempPathFactory) -> Places:
    """A dataset in two shards, an untrained model, an index in four segments."""
    folder = tmp_path_factory.mktemp("service")
    places = Places(str(folder / "data"), str(folder / "model"), str(folder / "index"))
    parts = [(f"part-{n}", materials[20 * n : 20 * n + 20]) for n in range(2)]
    shards = [write_shard(places.dataset, name, rows, [GAP], rows_per_group=8) for name, rows in parts]
    commit_manifest(places.dataset, shards, [GAP])
    config = tiny_config()
    torch.manual_seed(0)
    texts = [material.value("text") for material in materials]
    model = Model(config, prepare(config, {"text": texts}))
    model.save_pretrained(places.model, ModelCard(name="tiny", steps=7))
    embed(load(places.model), places, str(folder / "embeddings"))
    build_index(str(folder / "embeddings"), places.index, rows_per_segment=10)
    return places


PREDICTORS = {
    "by-formula": {"composition": {"encoder": "composition-transformer", "options": {"hidden": 8, "layers": 1}}},
    "by-pattern": {"xrd": {"encoder": "xrd-resnet", "options": {"channels": (4, 4, 4, 4), "hidden": 8}}},
    "by-spectrum": {"dos": {"encoder": "dos-transformer", "options": {"hidden": 8, "layers": 1}}},
}


@pytest.fixture(scope="session")
def models(places: Places, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder of three fine-tuned models: of the formula, the pattern, and a spectrum that no structure tells."""
    from crystalign.finetuning.trial import run_trial
    from crystalign.finetuning.trial_config import TrialConfig

    folder = tmp_path_factory.mktemp("predictors")
    (folder / "best").mkdir()
    for name, encoders in PREDICTORS.items():
        recipe = {"max_epochs": 3, "warmup_epochs": 1}
        values = {"data": places.dataset, "task": {"target": "band_gap"}, "encoders": encoders, "recipe": recipe}
        run_trial(TrialConfig.from_mapping(values, origin=name), str(folder / "trials" / name))
        (folder / "trials" / name / "model").rename(folder / "best" / name)
    return str(folder / "best")


@pytest.fixture(scope="session")
def segments(places: Places) -> list[Segment]:
    manifest = IndexManifest.read(places.index)
    return [Segment.load(places.index, [entry], manifest.properties) for entry in manifest.segments]


@pytest.fixture(scope="session")
def http(places: Places, segments: list[Segment]) -> Iterator[TestClient]:
    """The API over one process, without Ray."""
    from crystalign_serve.api import build_api
    from crystalign_serve.backend import LocalBackend
    from crystalign_serve.service import open_service, read_model

    described = read_model(places.model)
    config, card = described.config, described.card
    service = open_service(IndexManifest.read(places.index), config, card, dataset_uri=None, shards=len(segments))
    with TestClient(build_api(service, LocalBackend(load(places.model), segments))) as client:
        yield client


@pytest.fixture(scope="session")
def beside(places: Places, segments: list[Segment], models: str) -> Iterator[TestClient]:
    """The same with fine-tuned models beside the index."""
    from crystalign_serve.api import build_api
    from crystalign_serve.backend import LocalBackend
    from crystalign_serve.predictions import LocalPredictors, find_models
    from crystalign_serve.service import open_service, read_model

    found, described = find_models(models)
    model = read_model(places.model)
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
