"""The Python client.

    from crystalign_serve.client import Client

    with Client("http://127.0.0.1:8000") as client:
        for hit in client.search(dos="dos.csv", filter='elements HAS ALL "Li","O"', k=20):
            print(hit.id, hit.formula, hit.score)

Structures are whatever you have: a path, the text of a CIF, a `Crystal`, a pymatgen `Structure`
or ASE `Atoms`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self
from urllib.parse import quote

import httpx

from crystalign.crystal import Crystal
from crystalign.errors import Error, QueryError
from crystalign.readers.structures.structure_file import crystal_from_cif
from crystalign_serve.query_fields import RequestField, flags

DEFAULT_URL = "http://127.0.0.1:8000"
TIMEOUT_SECONDS = 60.0
_MAX_PATH = 4096


class ServiceError(Error):
    """The service could not be reached, or answered with an error that is not the query's."""


class Hit(NamedTuple):
    """One result."""

    rank: int
    """1 is the best."""
    id: str
    score: float
    """Cosine similarity of the embeddings; of a powder pattern asked alone, of the patterns at their best strain."""
    formula: str
    spacegroup_number: int | None
    n_sites: int
    source: str
    properties: dict[str, float]
    """Column → value."""
    raw: dict[str, Any]
    """As the service sent it, with labels and units."""


class Answer(Sequence[Hit]):
    """The results of a search, best first."""

    def __init__(self, raw: dict[str, Any]) -> None:
        self.raw = raw
        self._hits = [_hit(result) for result in raw["results"]]

    def __getitem__(self, index: Any) -> Any:
        return self._hits[index]

    def __len__(self) -> int:
        """How many results there are."""
        return len(self._hits)

    def __iter__(self) -> Iterator[Hit]:
        """Best first."""
        return iter(self._hits)

    def __repr__(self) -> str:
        """How many, out of how many."""
        return f"Answer({len(self)} of {self.allowed} allowed rows, {self.raw['elapsed_ms']} ms)"

    @property
    def allowed(self) -> int:
        """Rows that the filter lets through."""
        return int(self.raw["allowed"])

    @property
    def exhausted(self) -> bool:
        """Whether these are all that the filter allows, fewer than were asked for."""
        return bool(self.raw["exhausted"])

    @property
    def complete(self) -> bool:
        """Whether every shard answered."""
        return bool(self.raw["shards_ok"] == self.raw["shards_total"])


class Client:
    """A connection to a Crystalign service.

    Args:
        url: of the service; default: the environment variable CRYSTALIGN_URL, else port 8000 of this machine.
        api_key: where the service asks for one; default: the environment variable CRYSTALIGN_API_KEY, or what the file
            holds that CRYSTALIGN_API_KEY_FILE names.
        transport: for tests and special networks, as in httpx.

    Raises:
        ConfigError: the file of the key cannot be read.
    """

    def __init__(
        self, url: str | None = None, *, api_key: str | None = None, transport: httpx.BaseTransport | None = None
    ) -> None:
        self.url = (url or os.environ.get("CRYSTALIGN_URL") or DEFAULT_URL).rstrip("/")
        key = api_key or _key_of_environment()
        headers = {} if key is None else {"authorization": f"Bearer {key}"}
        self._http = httpx.Client(base_url=self.url, timeout=TIMEOUT_SECONDS, transport=transport, headers=headers)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the connection."""
        self._http.close()

    def search(
        self,
        *,
        id: str | None = None,  # noqa: A002 (the name of the part, as everywhere)
        wavelength: str | float | None = None,
        filter: str | None = None,  # noqa: A002 (the name of the option, as everywhere)
        k: int = 10,
        weights: Mapping[str, float] | None = None,
        rerank: int = 200,
        **parts: Any,
    ) -> Answer:
        """Search by any mixture of parts; the fused score is the weighted sum of the single ones.

        The parts are what the modalities declare. Those of this package are

        - `text`: a description; `formula`: a chemical formula
        - `cif`: a structure: path, CIF text, `Crystal`, pymatgen `Structure` or ASE `Atoms`
        - `dos`: path of a file, `DensityOfStates`, or a mapping with `energies` (eV) and `densities`
        - `xrd`: path of a file, or a mapping with `two_theta` (degrees), `intensities` and `wavelength`

        Args:
            id: a material of the index.
            wavelength: of an XRD file that does not say: `CuKa`, …, or Å.
            filter: OPTIMADE filter, evaluated before the search.
            k: results wanted, 1 to 1000.
            weights: part → weight, 1 where none is given.
            rerank: candidates of a powder pattern, asked alone, that are ordered by two ranks, of the embedding
                and of how their patterns match at the best strain, at least k; 0 keeps the embedding's order.
            parts: name → value; None is left out.

        Raises:
            QueryError: the service cannot use the query; the message says why.
            ServiceError: the service cannot be reached, or broke.
            TypeError: no modality declares a part of that name.
        """
        known = flags()
        if unknown := sorted(set(parts) - set(known)):
            raise TypeError(f"search has no part {unknown[0]!r}; there are {', '.join([*known, 'id'])}")
        query: dict[str, Any] = {} if id is None else {"id": id}
        files = []
        for name, part in known.items():
            value = parts.get(name)
            if value is None:
                continue
            if part.spec.is_structure:
                query[name] = _cif_text(value)
            elif part.spec.files is not None and isinstance(value, str | Path):
                files.append((name, Path(value)))
            else:
                query[name] = _plain(value, part, wavelength)
        options = {"k": k, "filter": filter, "weights": dict(weights or {}), "rerank": rerank}
        if not files:
            return Answer(self._call("POST", "/api/search", json={"query": query, **options}))
        form = {"k": str(k), "rerank": str(rerank), "filter": filter or "", "weights": json.dumps(options["weights"])}
        form |= {"wavelength": str(wavelength or ""), "query": json.dumps(query) if query else ""}
        sent = [("file", (path.name, _read(path))) for _, path in files]
        data = {**form, "kind": [kind for kind, _ in files]}
        return Answer(self._call("POST", "/api/search/file", data=data, files=sent))

    def similar(self, material_id: str, *, k: int = 10, filter: str | None = None) -> Answer:  # noqa: A002
        """The materials nearest to one of the index, itself left out."""
        parameters: dict[str, Any] = {"k": k} | ({"filter": filter} if filter else {})
        return Answer(self._call("GET", f"/api/materials/{_quoted(material_id)}/similar", params=parameters))

    def find_similar(self, structure_or_id: Any, top: int = 50, *, filter: str | None = None) -> Answer:  # noqa: A002
        """The `top` nearest materials to a structure or to an id, in the manner of mp-api."""
        if _is_id(structure_or_id):
            return self.similar(structure_or_id, k=top, filter=filter)
        return self.search(cif=structure_or_id, k=top, filter=filter)

    def predict(
        self, structures: Sequence[Any], *, models: Sequence[str] = (), level: float = 0.9
    ) -> list[dict[str, Any]]:
        """Properties by the service's fine-tuned models, with intervals and out-of-domain scores.

        Args:
            structures: ids of the index, or paths, CIF text, `Crystal`, pymatgen `Structure` or ASE `Atoms`.
            models: names, as `info` lists them; by default all.
            level: of the intervals: 0.5, 0.8, 0.9 or 0.95.

        Returns:
            Of each structure its `formula`, its `predictions`, `problems`: what could not be predicted, and why, and
            `remarks`: what to know of the structure, e.g. that hydrogen is missing.

        Raises:
            QueryError: nothing can be predicted of any; the message says why.
            ServiceError: the service cannot be reached, or broke.
        """
        body = {"structures": [_structure(one) for one in structures], "models": list(models), "level": level}
        found: list[dict[str, Any]] = self._call("POST", "/api/predict", json=body)["results"]
        return found

    def material(self, material_id: str) -> dict[str, Any]:
        """Everything known about a material but its curves."""
        return self._call("GET", f"/api/materials/{_quoted(material_id)}")

    def crystal(self, material_id: str) -> Crystal:
        """The structure of a material."""
        return crystal_from_cif(self._send("GET", f"/api/materials/{_quoted(material_id)}/cif").text)

    def info(self) -> dict[str, Any]:
        """What is served: index, model, modalities, fields to filter by."""
        return self._call("GET", "/api/info")

    def health(self) -> dict[str, Any]:
        """Whether every shard answers."""
        return self._call("GET", "/api/health")

    def _call(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        answer: dict[str, Any] = self._send(method, path, **options).json()
        return answer

    def _send(self, method: str, path: str, **options: Any) -> httpx.Response:
        try:
            response = self._http.request(method, path, **options)
        except httpx.HTTPError as error:
            raise ServiceError(f"no answer from {self.url} ({error}); is `crystalign serve` running there?") from error
        except ValueError as error:  # NaN in a JSON body
            raise QueryError(f"the query cannot be sent: {error}", reason="bad-number") from error
        if response.is_success:
            return response
        message = _detail(response)
        if response.status_code == 401:
            message += "; give the key as `api_key`, --api-key-file FILE or CRYSTALIGN_API_KEY_FILE"
        if 400 <= response.status_code < 500:
            raise QueryError(message, reason=f"http-{response.status_code}")
        raise ServiceError(message)


def _hit(raw: dict[str, Any]) -> Hit:
    properties = {entry["key"]: entry["value"] for entry in raw["properties"]}
    known = {name: raw[name] for name in Hit._fields if name not in {"properties", "raw"}}
    return Hit(**known, properties=properties, raw=raw)


def _detail(response: httpx.Response) -> str:
    try:
        return "; ".join(entry["detail"] for entry in response.json()["errors"])
    except (ValueError, KeyError, TypeError):
        return f"{response.status_code} {response.reason_phrase}: {response.text[:200]}"


def _key_of_environment() -> str | None:
    given, file = os.environ.get("CRYSTALIGN_API_KEY"), os.environ.get("CRYSTALIGN_API_KEY_FILE")
    if given or not file:
        return given or None
    from crystalign_serve.security import read_key

    return read_key(file)


def _quoted(material_id: str) -> str:
    return quote(material_id, safe="")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise QueryError(f"cannot read {path}: {error.strerror}", reason="unreadable-file") from error


def _is_id(value: Any) -> bool:
    """A word that is no file is an id."""
    return isinstance(value, str) and "\n" not in value and not Path(value).is_file()


def _structure(value: Any) -> dict[str, str]:
    return {"id": value} if _is_id(value) else {"cif": _cif_text(value)}


def _cif_text(structure: Any) -> str:
    """CIF text of a path, a CIF, a `Crystal`, a pymatgen `Structure` or ASE `Atoms`."""
    if isinstance(structure, str) and ("\n" in structure or len(structure) > _MAX_PATH):
        return structure
    if isinstance(structure, str | Path):
        return _cif_of_file(Path(structure))
    if isinstance(structure, Crystal):
        return structure.to_cif()
    from_other = Crystal.from_ase if hasattr(structure, "get_scaled_positions") else Crystal.from_pymatgen
    return from_other(structure).to_cif()


def _cif_of_file(path: Path) -> str:
    """The text of a CIF, unpacked, which the service reads itself; any other structure as a CIF."""
    from crystalign.limits import Limits
    from crystalign.readers.compression import decompress
    from crystalign.readers.structures.decoding import decode
    from crystalign.readers.structures.structure_file import file_kind, sniffed_kind, structure_of_file

    data = decompress(_read(path), limit=Limits().max_structure_bytes, name=path.name)
    if (file_kind(path.name) or sniffed_kind(data)) == "cif":
        return decode(data, path.name)
    return structure_of_file(data, path.name).to_cif()


def _plain(value: Any, part: RequestField, wavelength: str | float | None) -> Any:
    """A value as JSON can carry it: words as they are, a spectrum by the fields of its request."""
    if part.spec.files is None:
        return value
    names = part.field.type.model_fields
    fields = value if isinstance(value, Mapping) else {n: getattr(value, n) for n in names if hasattr(value, n)}
    plain = {name: field.tolist() if hasattr(field, "tolist") else field for name, field in fields.items()}
    return {**plain, "wavelength": wavelength} if wavelength and part.spec.files.takes_wavelength else plain
