"""Who may ask, by which name, from which page; and what the answers forbid."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import threading
import time
from collections.abc import Iterator

import httpx
import pytest
from fastapi.testclient import TestClient

from crystalign.errors import ConfigError, QueryError
from crystalign.index.manifest import IndexManifest
from crystalign.model import load
from crystalign.model_description import read_description
from crystalign_serve.api import build_api
from crystalign_serve.backend import LocalBackend
from crystalign_serve.client import Client
from crystalign_serve.security import Access, access_of, read_key
from crystalign_serve.service import open_service

KEY = "k3y-of-the-test-service-0123456789"
QUERY = {"query": {"formula": "NaCl"}, "k": 2}
LOCAL = "http://localhost:8000"


@pytest.fixture(scope="module")
def parts(places, segments):
    described = read_description(places.model)
    manifest = IndexManifest.read(places.index)
    service = open_service(manifest, described.config, described.card, dataset_uri=None, shards=len(segments))
    return service, LocalBackend(load(places.model), segments)


@pytest.fixture(scope="module")
def key_file(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("key") / "key"
    path.write_text(KEY + "\n")
    return str(path)


@pytest.fixture(scope="module")
def local(parts) -> Iterator[TestClient]:
    """As it is on a laptop: loopback, no key."""
    app = build_api(*parts, None, access_of("127.0.0.1", None, ["crystals.example.org"]))
    with TestClient(app, base_url=LOCAL) as client:
        yield client


@pytest.fixture(scope="module")
def public(parts, key_file) -> Iterator[TestClient]:
    """As it is on a server: every interface, with a key."""
    app = build_api(*parts, None, access_of("0.0.0.0", key_file, ["crystals.example.org"]))
    with TestClient(app, base_url="http://192.0.2.7:8000") as client:
        yield client


# --- the key ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.7", "::", "example.org"])
def test_listening_beyond_this_machine_needs_a_key(host, key_file):
    with pytest.raises(ConfigError, match="--api-key-file"):
        access_of(host, None, ())
    assert access_of(host, key_file, ()).key_sha256 is not None


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.3.2.1"])
def test_listening_on_this_machine_needs_none(host):
    assert access_of(host, None, ()).key_sha256 is None


@pytest.mark.parametrize("text", ["", "short", "two words of a long sentence", "sixteen-chärs-and-more", "a" * 5000])
def test_a_file_that_holds_no_key_is_refused_before_anything_starts(tmp_path, text):
    (tmp_path / "key").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match="API key"):
        read_key(str(tmp_path / "key"))
    with pytest.raises(ConfigError, match="No such file"):
        read_key(str(tmp_path / "none"))


def test_the_command_refuses_to_listen_everywhere_without_a_key(places):
    from crystalign_serve.launch import Serve, running

    with pytest.raises(ConfigError, match="--api-key-file"), running(Serve(index=places.index, host="0.0.0.0", port=0)):
        pass


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer wrong"},
        {"authorization": f"Bearer {KEY}x"},
        {"authorization": f"Basic {KEY}"},
        {"authorization": "Bearer "},
        {"x-api-key": KEY[:-1]},
    ],
)
def test_without_the_key_nothing_is_answered(public, headers):
    for response in (
        public.post("/api/search", json=QUERY, headers=headers),
        public.get("/api/info", headers=headers),
        public.get("/api/materials/salt/00", headers=headers),
        public.post("/api/search/file", files={"file": ("a.cif", b"x" * 100)}, headers=headers),
    ):
        assert response.status_code == 401
        assert response.headers["www-authenticate"] == "Bearer"
        assert "Authorization: Bearer" in response.json()["errors"][0]["detail"]


@pytest.mark.parametrize("headers", [{"authorization": f"Bearer {KEY}"}, {"x-api-key": KEY}])
def test_with_the_key_everything_is_answered(public, headers):
    assert public.post("/api/search", json=QUERY, headers=headers).status_code == 200
    assert public.get("/api/info", headers=headers).status_code == 200


@pytest.mark.parametrize("path", ["/", "/assets/app.js", "/docs", "/docs/docs.js", "/openapi.json", "/live", "/ready"])
def test_the_page_and_whether_it_lives_need_no_key(public, path):
    assert public.get(path).status_code == 200


@pytest.mark.parametrize("path", ["/assets/../api/info", "/assets/%2e%2e/api/info", "//api/info", "/docs/../api/info"])
def test_no_way_of_writing_an_address_goes_around_the_key(public, path):
    assert public.get(path).status_code in {401, 404}


def test_the_key_is_not_kept_but_its_digest(key_file):
    access = access_of("0.0.0.0", key_file, ())
    assert KEY not in repr(access)
    assert access.opens(KEY)
    assert not access.opens(KEY + "\udcff")


# --- names and pages --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:8000", "127.0.0.1:8000", "[::1]:8000", "LOCALHOST", "crystals.example.org"]
)
def test_the_names_of_the_service_are_answered(local, host):
    assert local.get("/api/info", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "127.0.0.1.nip.io", "192.0.2.7:8000", "", "[", "a@localhost:1"]
)
def test_any_other_name_is_refused(local, host):
    response = local.post("/api/search", json=QUERY, headers={"host": host})
    assert response.status_code == 403, response.text
    assert "--allowed-host" in response.json()["errors"][0]["detail"]
    assert local.get("/", headers={"host": host}).status_code == 403


def test_a_server_may_be_called_by_its_address_but_not_by_any_name(public):
    headers = {"authorization": f"Bearer {KEY}"}
    assert public.get("/api/info", headers=headers).status_code == 200
    assert public.get("/api/info", headers={**headers, "host": "evil.example"}).status_code == 403


FOREIGN = [
    {"origin": "http://evil.example"},
    {"origin": "null"},
    {"origin": "http://localhost:3000"},
    {"origin": "http://localhost:8000", "sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"},
    {"sec-fetch-site": "same-site"},
    {"origin": "http://localhost:8000@evil.example"},
]


@pytest.mark.parametrize("headers", FOREIGN)
def test_no_page_of_another_site_uses_the_service(local, headers):
    form = {"content-type": "application/x-www-form-urlencoded"}
    for response in (
        local.post("/api/search/file", files={"file": ("a.cif", b"x")}, headers=headers),
        local.post("/api/search", content=json.dumps(QUERY), headers={**headers, "content-type": "text/plain"}),
        local.post("/api/predict/file", content=b"file=x", headers={**headers, **form}),
        local.get("/api/materials/salt/00/similar", headers=headers),
    ):
        assert response.status_code == 403
        assert "another site" in response.json()["errors"][0]["detail"]


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"origin": LOCAL, "sec-fetch-site": "same-origin"},
        {"sec-fetch-site": "none"},
        {"origin": "https://crystals.example.org"},
    ],
)
def test_its_own_page_and_programs_use_it(local, headers):
    assert local.post("/api/search", json=QUERY, headers=headers).status_code == 200


def test_a_link_from_another_site_opens_the_page(local):
    headers = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    assert local.get("/", headers=headers).status_code == 200


@pytest.mark.parametrize("path", ["/", "/docs", "/api/info", "/assets/app.js", "/nothing", "/live"])
def test_every_answer_tells_browsers_what_it_is_not_for(local, path):
    headers = local.get(path).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "no-referrer"
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy


def test_behind_a_proxy_of_ray_any_name_will_do(parts):
    with TestClient(build_api(*parts, None, Access()), base_url="http://ingress.example") as client:
        assert client.get("/api/info").status_code == 200
        assert client.get("/api/info", headers={"origin": "http://evil.example"}).status_code == 403


# --- bodies -----------------------------------------------------------------------------------------------------------

NUMBERS = [n / 10 for n in range(100, 800)]


@pytest.mark.parametrize("weight", [1e308, 1e-7, 1e-308, -1, 0, 1e7])
def test_a_weight_that_decides_alone_is_refused(local, weight):
    body = {"query": {"text": "salt", "formula": "NaCl"}, "weights": {"text": weight}}
    response = local.post("/api/search", json=body)
    assert response.status_code == 422
    assert "weights.text" in response.json()["errors"][0]["detail"]


@pytest.mark.parametrize("wavelength", [-1.54, 0, 1e308, "-1.54", "nan", "", "0", "x" * 1000])
def test_a_wavelength_that_is_none_is_refused(local, wavelength):
    query = {"xrd": {"two_theta": NUMBERS, "intensities": [1.0] * len(NUMBERS), "wavelength": wavelength}}
    assert local.post("/api/search", json={"query": query}).status_code == 422


@pytest.mark.parametrize("cell", ["-5", "0", "1e-30", "1e30", "nan"])
def test_a_cell_that_is_none_is_refused(local, materials, cell):
    cif = materials[0].crystal.to_cif()
    line = next(line for line in cif.splitlines() if line.startswith("_cell_length_a"))
    response = local.post("/api/search", json={"query": {"cif": cif.replace(line, f"_cell_length_a {cell}")}})
    assert response.status_code == 422


@pytest.mark.parametrize("part", ["text", "formula", "id", "cif", "poscar"])
@pytest.mark.parametrize("escape", ["\\ud800", "\\udfff\\ud800", "a\\u0000b"])
def test_half_a_character_is_refused_and_never_an_error_of_ours(local, part, escape):
    body = f'{{"query": {{"{part}": "{escape}"}}}}'
    response = local.post("/api/search", content=body, headers={"content-type": "application/json"})
    assert 200 <= response.status_code < 500


@pytest.mark.parametrize(
    "body",
    [
        '{"query": {"text": "x"}, "filter": "\\ud800"}',
        '{"query": {"text": "x"}, "weights": {"\\ud800": 1}}',
        '{"query": {"text": "x"}, "\\ud800": 1}',
        '{"query": ' + '{"text": ' * 2000 + "1" + "}" * 2001,
        '{"query": {"dos": {"energies": [NaN], "densities": [1]}}}',
        '{"query": {"text": "x"}, "k": 1e400}',
        '{"query": {"text": "x"}, "k": 99999999999999999999999}',
        "\x00",
        '"' + "\\ud800" + '"',
    ],
)
def test_a_body_that_is_not_a_request_is_the_senders_mistake(local, body):
    response = local.post("/api/search", content=body, headers={"content-type": "application/json"})
    assert 400 <= response.status_code < 500
    assert response.json()["errors"][0]["title"]


@pytest.mark.parametrize("path", ["%ed%a0%80", "%00", "%ff", "a" * 5000, "..%2f..%2fetc", "%F0%9F%92%8E"])
@pytest.mark.parametrize("rest", ["", "/cif", "/similar", "/curve/xrd"])
def test_an_id_of_any_bytes_is_not_found(local, path, rest):
    assert 400 <= local.get(f"/api/materials/{path}{rest}").status_code < 500


# --- client and pages -------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def listening(app) -> Iterator[str]:
    import uvicorn

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="critical", ws="none"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join(10)


@pytest.fixture(scope="module")
def keyed(parts, key_file) -> Iterator[str]:
    with listening(build_api(*parts, None, access_of("127.0.0.1", key_file, ()))) as url:
        yield url


def test_the_client_and_the_command_send_the_key(keyed, key_file, monkeypatch, capsys):
    from crystalign_serve.search import Search, main

    with Client(keyed) as client, pytest.raises(QueryError, match="CRYSTALIGN_API_KEY_FILE"):
        client.info()
    with Client(keyed, api_key=KEY) as client:
        assert client.info()["index"]["rows"] == 40
    main(Search(formula="NaCl", url=keyed, api_key_file=key_file))
    assert "10 of 40 rows" in capsys.readouterr().out
    monkeypatch.setenv("CRYSTALIGN_API_KEY_FILE", key_file)
    with Client(keyed) as client:
        assert len(client.search(formula="NaCl")) == 10
    monkeypatch.setenv("CRYSTALIGN_API_KEY", "not the right one")
    with Client(keyed) as client, pytest.raises(QueryError, match="not the right one"):
        client.info()


@pytest.fixture(scope="module")
def browser():
    selenium = pytest.importorskip("selenium.webdriver")
    driver, chromium = shutil.which("chromedriver"), shutil.which("chromium") or shutil.which("google-chrome")
    if driver is None or chromium is None:
        pytest.skip("no headless Chromium")
    options = selenium.ChromeOptions()
    options.binary_location = chromium
    for word in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1200,900"):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    running = selenium.Chrome(options=options, service=selenium.ChromeService(driver))
    yield running
    running.quit()


def wait_until(true, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.1)


@pytest.mark.browser
def test_the_description_of_the_api_is_drawn_and_nothing_is_fetched_from_elsewhere(keyed, browser):
    browser.get(f"{keyed}/docs")
    find = "return document.querySelectorAll('.opblock-summary').length"
    wait_until(lambda: browser.execute_script(find) >= 5)
    assert "/api/search" in browser.execute_script("return document.body.textContent")
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    assert any("/docs/swagger-ui-bundle.js" in url for url in urls)
    assert not [url for url in urls if not url.startswith((keyed, "data:", "chrome:", "about:"))]
    logged = [entry["message"] for entry in browser.get_log("browser")]
    assert not [line for line in logged if "Content Security Policy" in line or "SEVERE" in line]


@pytest.mark.browser
def test_the_page_asks_for_the_key_once_and_keeps_it_in_the_tab(keyed, browser):
    from selenium.common.exceptions import NoAlertPresentException

    def prompt():
        try:
            return browser.switch_to.alert
        except NoAlertPresentException:
            return None

    browser.get(keyed)
    wait_until(lambda: prompt() is not None)
    prompt().send_keys(KEY)
    prompt().accept()
    wait_until(lambda: "40" in browser.execute_script("return document.querySelector('#index').textContent"))
    assert browser.execute_script("return sessionStorage.getItem('crystalign-api-key')") == KEY
    assert prompt() is None


def test_what_a_failed_request_prints_is_one_shape(keyed):
    for response in (httpx.get(f"{keyed}/api/nothing"), httpx.get(f"{keyed}/live", headers={"host": "evil.example"})):
        (error,) = response.json()["errors"]
        assert set(error) == {"status", "title", "detail"}
