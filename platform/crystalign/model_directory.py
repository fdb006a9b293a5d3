"""Directories of models: written with a checksum of every file, verified when they are read.

model/
├── config.json         settings, card, and the sha256 of every other file but the README; written last
├── model.safetensors   weights
├── README.md           the card, for people
└── text/tokenizer.json whatever files an encoder needs, in a folder named after its modality

An aligned `Model` and a fine-tuned `PropertyModel` are such directories. A published language model, which is used as
it is, is a folder without checksums: `local_folder` and `folder_sha256` read it and say which one it is.
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
    """The files that a `config.json` lists: weights, those of the encoders, and others.

    Args:
        model: of which `state_dict()` is stored.
        encoder_files: modality → files of its encoder.
        more: whatever else the model needs.
    """
    from safetensors.torch import save

    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    files: Files = {WEIGHTS: save(state), **more}
    for name, own in encoder_files.items():
        files |= {f"{name}/{path}": data for path, data in own.items()}
    return files


def digests(files: Mapping[str, bytes]) -> dict[str, str]:
    """Path → sha256, in the order of the paths."""
    return {path: Fingerprint.of(data).sha256 for path, data in sorted(files.items())}


def save_files(files: Mapping[str, bytes], directory: str | Path) -> None:
    """Write a directory on this machine, in the order of the files."""
    for path, data in files.items():
        target = Path(directory) / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)


def write_files(files: Mapping[str, bytes], uri: str) -> list[storage.FileEntry]:
    """Write a directory to any URI, in the order of the files, every one read back.

    Returns:
        The files, with paths relative to `uri`.

    Raises:
        StorageError: the store refuses, or does not return what was written.
    """
    return [
        storage.write_bytes(storage.join(uri, *path.split("/")), data).model_copy(update={"path": path})
        for path, data in files.items()
    ]


# --- reading ----------------------------------------------------------------------------------------------------------


def read_config(uri: str, *, kind: str) -> bytes:
    """`config.json` of the directory at a path or URI.

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
    """`config.json` and every file that it lists; `check_files` verifies them.

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
    """The content of `config.json`.

    Raises:
        ModelError: it is no JSON of a model.
    """
    try:
        values = json.loads(data)
    except ValueError as error:
        raise ModelError(f"{origin} is not a model directory: its config.json is not JSON") from error
    if not isinstance(values, dict):
        raise ModelError(f"{origin} is not a model directory: its config.json holds no settings")
    return values


def check_format(values: Mapping[str, Any], readable: Collection[int], origin: str) -> int:
    """The version of the layout of a directory.

    Args:
        values: content of `config.json`.
        readable: versions that this release reads.
        origin: of the directory, for the message.

    Raises:
        ModelError: there is none, or it is not readable.
    """
    if "format" not in values:
        raise ModelError(f"{origin} is not a model directory of Crystalign: its config.json has no format")
    version: int = values["format"]
    if version not in readable:
        known = " and ".join(map(str, readable))
        raise ModelError(f"the model at {origin} has format {version}, this version reads {known}. Update Crystalign")
    return version


def check_paths(paths: Collection[str], origin: str) -> None:
    """Refuse a `config.json` whose list of files cannot be that of a model.

    Raises:
        ModelError: it names a file outside the directory, or no weights.
    """
    for path in paths:
        if path.startswith("/") or ".." in path.split("/"):
            raise ModelError(f"the model at {origin} names {path!r}: a file outside its directory")
    if WEIGHTS not in paths:
        raise ModelError(f"the model at {origin} names no {WEIGHTS}: it has no weights")


def check_files(files: Mapping[str, bytes], expected: Mapping[str, str], origin: str) -> None:
    """Check the files of a directory.

    Args:
        files: path → content.
        expected: path → sha256, as `config.json` lists them.
        origin: of the files, for the message.

    Raises:
        ModelError: one is missing, or is not what `config.json` says.
    """
    for path, sha256 in expected.items():
        if path not in files:
            raise ModelError(f"the model at {origin} is broken: {path} is missing. Copy it again")
        if Fingerprint.of(files[path]).difference(sha256):
            raise ModelError(
                f"the model at {origin} is broken: {path} is not what config.json says it is. Copy it again"
            )


# --- folders that others wrote ----------------------------------------------------------------------------------------


@contextmanager
def local_folder(uri: str, endings: tuple[str, ...]) -> Iterator[str]:
    """The folder itself, or a copy of what is read of a remote one for the length of the block.

    Args:
        uri: the folder, any URI.
        endings: of the names of the files that are read.
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
    """Names of the files right inside a folder that are read, sorted."""
    return [name for name in storage.list_names(uri) if "/" not in name and name.endswith(endings)]


def folder_sha256(uri: str, endings: tuple[str, ...]) -> str:
    """Identity of a folder: of the names and contents of the files that are read."""
    listed = [(name, storage.fingerprint(storage.join(uri, name)).sha256) for name in folder_files(uri, endings)]
    return hashlib.sha256(json.dumps(listed).encode()).hexdigest()
