"""Read and write model directories, with a checksum of every file that is verified on reading.

model/
├── config.json         settings, card, and the sha256 of every other file but the README; written last
├── model.safetensors   weights
├── README.md           the card, for human readers
└── text/tokenizer.json files of an encoder, in a folder named after its modality

An aligned `Model` and a fine-tuned `PropertyModel` are such directories. A published language model is a folder
without checksums: `local_folder` reads it and `folder_sha256` identifies it.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crystalign import storage
from crystalign.checksums import Fingerprint
from crystalign.errors import ModelError, StorageError, VerificationError

if TYPE_CHECKING:
    from torch import nn

Files = dict[str, bytes]
"""Path in the directory → content."""
CONFIG, WEIGHTS, README = "config.json", "model.safetensors", "README.md"


# --- writing ----------------------------------------------------------------------------------------------------------


def described_files(model: nn.Module, encoder_files: Mapping[str, Files], more: Mapping[str, bytes]) -> Files:
    """Return the files that `config.json` lists: weights, encoder files, and others.

    Args:
        model: its `state_dict()` is stored.
        encoder_files: modality → files of its encoder.
        more: other files that the model needs.
    """
    from safetensors.torch import save

    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    files: Files = {WEIGHTS: save(state), **more}
    for name, own in encoder_files.items():
        files |= {f"{name}/{path}": data for path, data in own.items()}
    return files


def digests(files: Mapping[str, bytes]) -> dict[str, str]:
    """Path → sha256, sorted by path."""
    return {path: Fingerprint.of(data).sha256 for path, data in sorted(files.items())}


def save_files(files: Mapping[str, bytes], directory: str | Path) -> None:
    """Write a local directory, files in the given order."""
    for path, data in files.items():
        target = Path(directory) / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)


def write_files(files: Mapping[str, bytes], uri: str) -> list[storage.FileEntry]:
    """Write a directory to any URI, files in the given order, and read each file back to verify it.

    Returns:
        The files, with paths relative to `uri`.

    Raises:
        StorageError: the store refuses a file, or returns other content than was written.
    """
    return [
        storage.write_bytes(storage.join(uri, *path.split("/")), data).model_copy(update={"path": path})
        for path, data in files.items()
    ]


# --- reading ----------------------------------------------------------------------------------------------------------


def read_config(uri: str, *, kind: str) -> bytes:
    """Read `config.json` of the directory at a path or URI.

    Args:
        uri: of the directory.
        kind: what is looked for, for the message: `model`.

    Raises:
        ModelError: there is none.
    """
    try:
        return storage.read_bytes(storage.join(uri, CONFIG))
    except VerificationError:
        raise
    except StorageError as error:
        raise ModelError(f"no {kind} at {uri}: {error}") from error


def read_files(uri: str, listed: Callable[[bytes], Collection[str]], *, kind: str) -> Files:
    """Read `config.json` and every file that it lists; `check_files` verifies them.

    Args:
        uri: of the directory.
        listed: `config.json` → the paths that it names.
        kind: what is looked for, for the message: `model`.

    Raises:
        ModelError: there is no such directory, or a file is missing.
    """
    files = {CONFIG: read_config(uri, kind=kind)}
    try:
        for path in listed(files[CONFIG]):
            files[path] = storage.read_bytes(storage.join(uri, *path.split("/")))
    except VerificationError:
        raise
    except StorageError as error:
        raise ModelError(f"no {kind} at {uri}: {error}") from error
    return files


def parse_config(data: bytes, origin: str) -> dict[str, Any]:
    """Parse `config.json`.

    Raises:
        ModelError: it is not the JSON of a model.
    """
    try:
        values = json.loads(data)
    except ValueError as error:
        raise ModelError(f"{origin} is not a model directory: its config.json is not JSON") from error
    if not isinstance(values, dict):
        raise ModelError(f"{origin} is not a model directory: its config.json holds no settings")
    return values


def check_format(values: Mapping[str, Any], readable: Collection[int], origin: str) -> int:
    """Return the format version of a model directory.

    Args:
        values: content of `config.json`.
        readable: versions that this release reads.
        origin: of the directory, for the message.

    Raises:
        ModelError: the version is missing or not supported.
    """
    if "format" not in values:
        raise ModelError(f"{origin} is not a model directory of Crystalign: its config.json has no format")
    version: int = values["format"]
    if version not in readable:
        supported = " and ".join(map(str, readable))
        raise ModelError(
            f"the model at {origin} has format {version}, this version reads {supported}. Update Crystalign"
        )
    return version


def check_paths(paths: Collection[str], origin: str) -> None:
    """Refuse a `config.json` whose file list is not valid for a model.

    Raises:
        ModelError: the list names a file outside the directory, or does not name the weights.
    """
    for path in paths:
        if path.startswith("/") or ".." in path.split("/"):
            raise ModelError(f"the model at {origin} names {path!r}: a file outside its directory")
    if WEIGHTS not in paths:
        raise ModelError(f"the model at {origin} names no {WEIGHTS}: it has no weights")


def check_files(files: Mapping[str, bytes], expected: Mapping[str, str], origin: str) -> None:
    """Verify the files of a directory against their checksums.

    Args:
        files: path → content.
        expected: path → sha256, as `config.json` lists them.
        origin: of the files, for the message.

    Raises:
        ModelError: a file is missing, or its checksum differs from `config.json`.
    """
    for path, sha256 in expected.items():
        if path not in files:
            raise ModelError(f"the model at {origin} is broken: {path} is missing. Copy it again")
        if Fingerprint.of(files[path]).difference(sha256):
            raise ModelError(
                f"the model at {origin} is broken: {path} is not what config.json says it is. Copy it again"
            )


# --- folders of published models -------------------------------------------------------------------------------------


@contextmanager
def local_folder(uri: str, endings: tuple[str, ...]) -> Iterator[str]:
    """Yield a local path of the folder; a remote folder is copied for the duration of the block.

    Args:
        uri: the folder, any URI.
        endings: file name endings to read.
    """
    system, path = storage.filesystem(uri)
    if system.type_name == "local":
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="crystalign-model-") as folder:
        for name in folder_files(uri, endings):
            storage.download(storage.join(uri, name), f"{folder}/{name}")
        yield folder


def folder_files(uri: str, endings: tuple[str, ...]) -> list[str]:
    """Sorted names of the files directly inside a folder that are read."""
    return [name for name in storage.list_names(uri) if "/" not in name and name.endswith(endings)]


def folder_sha256(uri: str, endings: tuple[str, ...]) -> str:
    """Identity of a folder: sha256 of the names and contents of the files that are read."""
    listed = [(name, storage.fingerprint(storage.join(uri, name)).sha256) for name in folder_files(uri, endings)]
    return hashlib.sha256(json.dumps(listed).encode()).hexdigest()
