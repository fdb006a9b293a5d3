"""Python client of the search and prediction service.

    from crystalign_serve.client import Client

    with Client("http://127.0.0.1:8000") as client:
        for hit in client.search(dos="dos.csv", filter='elements HAS ALL "Li","O"', k=20):
            print(hit.id, hit.formula, hit.score)

A structure may be a path, the text of a CIF, a `Crystal`, a pymatgen `Structure` or ASE `Atoms`.
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
    """The service could not be reached, or failed with a server error."""


class Hit(NamedTuple):
    """One search result."""

    rank: int
    """Rank, starting at 1."""
    id: str
    score: float
    """Cosine similarity of the embeddings. For a query by a powder pattern alone: cosine similarity of the patterns at
    the best strain."""
    formula: str
    spacegroup_number: int | None
    n_sites: int
    source: str
    properties: dict[str, float]
    """Column → value."""
    raw: dict[str, Any]
    """The JSON of the result, with labels and units."""


class Answer(Sequence[Hit]):
    """The results of a search, best first."""

    def __init__(self, raw: dict[str, Any]) -> None:
        self.raw = raw
        self._hits = [_hit(result) for result in raw["results"]]

    def __getitem__(self, index: Any) -> Any:
        return self._hits[index]

    def __len__(self) -> int:
        """Number of results."""
        return len(self._hits)

    def __iter__(self) -> Iterator[Hit]:
        """The results, best first."""
        return iter(self._hits)

    def __repr__(self) -> str:
        """Number of results and of allowed rows, and the response time."""
        return f"Answer({len(self)} of {self.allowed} allowed rows, {self.raw['elapsed_ms']} ms)"

    @property
    def allowed(self) -> int:
        """Number of rows that pass the filter."""
        return int(self.raw["allowed"])

    @property
    def exhausted(self) -> bool:
        """Whether fewer than k rows pass the filter, so that these are all of them."""
        return bool(self.raw["exhausted"])

    @property
    def understood(self) -> list[dict[str, Any]]:
        """How the typed words were read: one mapping per condition, with its `words`, `kind`, `label` and `filter`."""
        understood = self.raw["query"].get("understood") or {}
        chips: list[dict[str, Any]] = understood.get("chips", [])
        return chips

    @property
    def confidence(self) -> dict[str, Any] | None:
        """How sure the answer is: `probability` that the first results fit, `level` (high, medium or low), a sentence
        `text`, and `unknown_words`. None if the index was not calibrated for this kind of query.
        """
        confidence: dict[str, Any] | None = self.raw["query"].get("confidence")
        return confidence

    @property
    def complete(self) -> bool:
        """Whether every shard answered."""
        return bool(self.raw["shards_ok"] == self.raw["shards_total"])


class Client:
    """A connection to a Crystalign service.

    Args:
        url: URL of the service; default: the environment variable CRYSTALIGN_URL, or else http://127.0.0.1:8000.
        api_key: API key, if the service requires one; default: the environment variable CRYSTALIGN_API_KEY, or the
            content of the file named by CRYSTALIGN_API_KEY_FILE.
        transport: httpx transport, for tests and special networks.

    Raises:
        ConfigError: the key file cannot be read.
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
        """Close the connection."""
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
        literal: bool = False,
        ignore: Sequence[str] = (),
        **parts: Any,
    ) -> Answer:
        """Search by any combination of parts. Combined parts rank by the weighted sum of their scores.

        The parts are the query fields of the registered modalities. Those of this package are

        - `text`: a description; `formula`: a chemical formula
        - `cif`: a structure: path, CIF text, `Crystal`, pymatgen `Structure` or ASE `Atoms`
        - `dos`: path of a file, `DensityOfStates`, or a mapping with `energies` (eV) and `densities`
        - `xrd`: path of a file, or a mapping with `two_theta` (degrees), `intensities` and `wavelength`

        Args:
            id: id of a material in the index.
            wavelength: wavelength of an XRD file that does not state it: `CuKa`, …, or Å.
            filter: OPTIMADE filter, evaluated before the search.
            k: number of results, 1 to 1000.
            weights: part → weight; default 1.
            rerank: for a query by a powder pattern alone, number of candidates (at least k) to rerank by fusing the
                embedding rank with the rank of the pattern match at the best strain; 0 keeps the embedding order.
            literal: take `text` and `formula` literally: compare their words and vectors, and do not read them as
                conditions.
            ignore: words that are not to be read as conditions, as in `words` of an entry of `Answer.understood`.
            parts: name → value; None is ignored.

        Raises:
            QueryError: the service cannot use the query; the message says why.
            ServiceError: the service cannot be reached, or failed.
            TypeError: no modality declares a part of that name.
        """
        fields = flags()
        if unknown := sorted(set(parts) - set(fields)):
            raise TypeError(f"search has no part {unknown[0]!r}; available: {', '.join([*fields, 'id'])}")
        query, files = _query_and_files(parts, wavelength)
        query |= {} if id is None else {"id": id}
        options: dict[str, Any] = {"k": k, "filter": filter, "weights": dict(weights or {}), "rerank": rerank}
        options |= {"literal": literal, "ignore": list(ignore)}
        if not files:
            return Answer(self._call("POST", "/api/search", json={"query": query, **options}))
        form = {"k": str(k), "rerank": str(rerank), "filter": filter or "", "weights": json.dumps(options["weights"])}
        form |= {"wavelength": str(wavelength or ""), "query": json.dumps(query) if query else ""}
        form |= {"literal": str(literal).lower()}
        uploads = [("file", (path.name, _read(path))) for _, path in files]
        data = {**form, "kind": [kind for kind, _ in files], "ignore": list(ignore)}
        return Answer(self._call("POST", "/api/search/file", data=data, files=uploads))

    def similar(self, material_id: str, *, k: int = 10, filter: str | None = None) -> Answer:  # noqa: A002
        """The nearest neighbours of a material of the index, without the material itself."""
        parameters: dict[str, Any] = {"k": k} | ({"filter": filter} if filter else {})
        return Answer(self._call("GET", f"/api/materials/{_quoted(material_id)}/similar", params=parameters))

    def find_similar(self, structure_or_id: Any, top: int = 50, *, filter: str | None = None) -> Answer:  # noqa: A002
        """The `top` nearest neighbours of a structure or an id; same call as in mp-api."""
        if _is_id(structure_or_id):
            return self.similar(structure_or_id, k=top, filter=filter)
        return self.search(cif=structure_or_id, k=top, filter=filter)

    def predict(
        self, structures: Sequence[Any], *, models: Sequence[str] = (), level: float = 0.9
    ) -> list[dict[str, Any]]:
        """Predict properties by the service's fine-tuned models, with intervals and out-of-domain scores.

        Args:
            structures: ids of the index, or paths, CIF text, `Crystal`, pymatgen `Structure` or ASE `Atoms`.
            models: names of models, as listed by `info`; default: all.
            level: nominal coverage of the intervals: 0.5, 0.8, 0.9 or 0.95.

        Returns:
            For each structure `formula`, `predictions`, `problems` (what could not be predicted, and why) and
            `remarks` (warnings about the structure, e.g. missing hydrogen).

        Raises:
            QueryError: there is no prediction for any structure; the message says why.
            ServiceError: the service cannot be reached, or failed.
        """
        body = {"structures": [_structure(one) for one in structures], "models": list(models), "level": level}
        results: list[dict[str, Any]] = self._call("POST", "/api/predict", json=body)["results"]
        return results

    def material(self, material_id: str) -> dict[str, Any]:
        """All data of a material except its curves."""
        return self._call("GET", f"/api/materials/{_quoted(material_id)}")

    def crystal(self, material_id: str) -> Crystal:
        """The structure of a material."""
        return crystal_from_cif(self._send("GET", f"/api/materials/{_quoted(material_id)}/cif").text)

    def facets(self, filter: str | None = None) -> dict[str, Any]:  # noqa: A002
        """How many rows pass a filter, and how many of them have each element, crystal system, and so on."""
        return self._call("GET", "/api/facets", params={} if filter is None else {"filter": filter})

    def info(self) -> dict[str, Any]:
        """What is served: index, model, modalities and filter fields."""
        return self._call("GET", "/api/info")

    def health(self) -> dict[str, Any]:
        """Status of the service and its shards."""
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


def _query_and_files(
    parts: Mapping[str, Any], wavelength: str | float | None
) -> tuple[dict[str, Any], list[tuple[str, Path]]]:
    """The parts that are sent as JSON, and the files by kind."""
    query: dict[str, Any] = {}
    files = []
    for name, part in flags().items():
        value = parts.get(name)
        if value is None:
            continue
        if part.spec.is_structure:
            query[name] = _cif_text(value)
        elif part.spec.files is not None and isinstance(value, str | Path):
            files.append((name, Path(value)))
        else:
            query[name] = _plain(value, part, wavelength)
    return query, files


def _hit(raw: dict[str, Any]) -> Hit:
    properties = {entry["key"]: entry["value"] for entry in raw["properties"]}
    fields = {name: raw[name] for name in Hit._fields if name not in {"properties", "raw"}}
    return Hit(**fields, properties=properties, raw=raw)


def _detail(response: httpx.Response) -> str:
    try:
        return "; ".join(entry["detail"] for entry in response.json()["errors"])
    except (ValueError, KeyError, TypeError):
        return f"{response.status_code} {response.reason_phrase}: {response.text[:200]}"


def _key_of_environment() -> str | None:
    key, file = os.environ.get("CRYSTALIGN_API_KEY"), os.environ.get("CRYSTALIGN_API_KEY_FILE")
    if key or not file:
        return key or None
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
    """Whether a value is an id: a single-line string that is not the path of a file."""
    return isinstance(value, str) and "\n" not in value and not Path(value).is_file()


def _structure(value: Any) -> dict[str, str]:
    return {"id": value} if _is_id(value) else {"cif": _cif_text(value)}


def _cif_text(structure: Any) -> str:
    """CIF text of a structure: a path, CIF text, a `Crystal`, a pymatgen `Structure` or ASE `Atoms`."""
    if isinstance(structure, str) and ("\n" in structure or len(structure) > _MAX_PATH):
        return structure
    if isinstance(structure, str | Path):
        return _cif_of_file(Path(structure))
    if isinstance(structure, Crystal):
        return structure.to_cif()
    from_other = Crystal.from_ase if hasattr(structure, "get_scaled_positions") else Crystal.from_pymatgen
    return from_other(structure).to_cif()


def _cif_of_file(path: Path) -> str:
    """A CIF file as it is (decompressed), which the service parses; any other structure file converted to CIF."""
    from crystalign.limits import Limits
    from crystalign.readers.compression import decompress
    from crystalign.readers.structures.decoding import decode
    from crystalign.readers.structures.structure_file import file_kind, sniffed_kind, structure_of_file

    data = decompress(_read(path), limit=Limits().max_structure_bytes, name=path.name)
    if (file_kind(path.name) or sniffed_kind(data)) == "cif":
        return decode(data, path.name)
    return structure_of_file(data, path.name).to_cif()


def _plain(value: Any, part: RequestField, wavelength: str | float | None) -> Any:
    """A value as JSON: text as it is, a spectrum as a mapping with the fields of its request model."""
    if part.spec.files is None:
        return value
    names = part.field.type.model_fields
    fields = value if isinstance(value, Mapping) else {n: getattr(value, n) for n in names if hasattr(value, n)}
    plain = {name: field.tolist() if hasattr(field, "tolist") else field for name, field in fields.items()}
    return {**plain, "wavelength": wavelength} if wavelength and part.spec.files.takes_wavelength else plain
