"""S3: common settings for pyarrow and boto3, and conditional writes.

pyarrow reads, lists and uploads. Conditional writes (`If-None-Match: *`, `If-Match: <etag>`) use boto3, because pyarrow
does not support them. Servers differ: some ignore the header, and Ceph 16 refuses an ETag in quotation marks. Every
server except AWS is therefore tested once per bucket with a temporary object beside the file. A server that ignores a
condition is refused, unless `CRYSTALIGN_S3_UNCONDITIONAL=1` says that no other job writes there.
"""

from __future__ import annotations

import functools
import logging
import os
import time
import uuid
from typing import Any
from urllib.parse import urlsplit

from pyarrow import fs

from crystalign.checksums import Fingerprint
from crystalign.errors import ConflictError, StorageError, VerificationError
from crystalign.storage_local import changed, gone

S3_ENVIRONMENT = {
    "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
    "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
}
"""Without these settings, several S3 servers lose an upload while the client reports success."""
CONNECT_TIMEOUT, REQUEST_TIMEOUT, ATTEMPTS = 10.0, 60.0, 4
UNCONDITIONAL = "CRYSTALIGN_S3_UNCONDITIONAL"
"""Environment variable; if set to 1, the client checks conditions before a write instead of the server."""
_PLACES = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_REGION", "AWS_DEFAULT_REGION")
_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
_WRITER = "crystalign-writer"
"""Metadata key of a conditional write that identifies the writer, to recognise our own write after a lost reply."""

Environment = tuple[str, ...]
_tried: dict[tuple[Environment, str], bool] = {}
"""(Environment, bucket) → result of `_try_conditions`."""

logger = logging.getLogger(__name__)


def environment() -> Environment:
    """The values of the environment variables that determine server, region and credentials."""
    for name, value in S3_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    return tuple(os.environ.get(name, "") for name in (*_PLACES, *_KEYS))


@functools.lru_cache(maxsize=8)
def s3_filesystem(variables: Environment) -> fs.S3FileSystem:
    """The filesystem for `environment()`."""
    endpoint, region = _endpoint_and_region(variables)
    options: dict[str, Any] = {
        "region": region,
        "connect_timeout": CONNECT_TIMEOUT,
        "request_timeout": REQUEST_TIMEOUT,
        "retry_strategy": fs.AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS),
        "allow_delayed_open": True,  # a small file is one request, not a multipart upload
    }
    if endpoint:
        parts = urlsplit(endpoint)
        options |= {"endpoint_override": parts.netloc, "scheme": parts.scheme, "force_virtual_addressing": False}
    return fs.S3FileSystem(**options)


@functools.lru_cache(maxsize=8)
def s3_client(variables: Environment) -> Any:
    """The boto3 client for `environment()`; it addresses buckets in the same way as `s3_filesystem`."""
    import boto3
    from botocore.config import Config

    endpoint, region = _endpoint_and_region(variables)
    settings = Config(
        connect_timeout=CONNECT_TIMEOUT,
        read_timeout=REQUEST_TIMEOUT,
        retries={"max_attempts": ATTEMPTS},
        s3={"addressing_style": "path"} if endpoint else None,
    )
    return boto3.client("s3", config=settings, region_name=region, endpoint_url=endpoint or None)


def put_if(bucket: str, key: str, data: bytes, *, expected: str | None) -> None:
    """Write an object if the existing one has the expected content; the server checks this atomically.

    Args:
        bucket: bucket of the object.
        key: key of the object.
        data: new content.
        expected: SHA-256 of the current content; None if there must be no object.

    Raises:
        ConflictError: the object exists, is missing or has other content, contrary to `expected`.
        StorageError: the server does not answer, or ignores conditions.
        VerificationError: the data read back differ from `data`.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    variables = environment()
    client, writer = s3_client(variables), uuid.uuid4().hex
    quoted = _conditions(variables, bucket, key)
    for attempt in range(ATTEMPTS + 1):
        try:
            condition = {"IfNoneMatch": "*"} if expected is None else {"IfMatch": _etag(client, bucket, key, expected)}
            condition = {name: value if quoted else value.strip('"') for name, value in condition.items()}
            client.put_object(Bucket=bucket, Key=key, Body=data, Metadata={_WRITER: writer}, **condition)
        except (ClientError, BotoCoreError) as error:
            if _writer(client, bucket, key) == writer:
                break  # an earlier attempt succeeded, but its reply was lost and boto3 repeated it
            if _status(error) != 409 or attempt == ATTEMPTS:
                raise _refusal(error, client, bucket, key, expected) from error
            time.sleep(0.1 * 2**attempt)  # another conditional write was under way
        else:
            break
    _verify(client, bucket, key, data, writer)


def unconditional() -> bool:
    """Whether the user states that no other job writes to these buckets."""
    return os.environ.get(UNCONDITIONAL, "") == "1"


def _endpoint_and_region(variables: Environment) -> tuple[str, str]:
    return variables[0] or variables[1], variables[2] or variables[3] or "us-east-1"


def _refusal(error: Exception, client: Any, bucket: str, key: str, expected: str | None) -> StorageError:
    """The error that explains a failed write."""
    uri, status = f"s3://{bucket}/{key}", _status(error)
    if status == 412 and expected is None:
        return ConflictError(f"{uri} exists and is not replaced")
    if status == 404 and expected is not None:
        return gone(uri)
    if status == 412 and expected is not None:
        try:
            _etag(client, bucket, key, expected)
        except ConflictError as conflict:
            return conflict
        return ConflictError(f"{uri} is not replaced: another process wrote the same content meanwhile; repeat")
    return StorageError(f"cannot write {uri}: {str(error)[:300]}")


def _verify(client: Any, bucket: str, key: str, data: bytes, writer: str) -> None:
    """Read an object back and compare it, unless a later conditional write has replaced it."""
    from botocore.exceptions import BotoCoreError, ClientError

    uri = f"s3://{bucket}/{key}"
    try:
        response = client.get_object(Bucket=bucket, Key=key)
        stored, by = response["Body"].read(), response["Metadata"].get(_WRITER, writer)
    except (ClientError, BotoCoreError) as error:
        raise VerificationError(f"{uri} cannot be read back: {str(error)[:300]}") from error
    if stored != data and by == writer:
        raise VerificationError(f"{uri} holds {len(stored)} bytes that are not the {len(data)} that were written")


def _etag(client: Any, bucket: str, key: str, expected: str) -> str:
    """The ETag of an object whose content has the expected SHA-256.

    Raises:
        ConflictError: the object has other content, or does not exist.
    """
    from botocore.exceptions import ClientError

    uri = f"s3://{bucket}/{key}"
    try:
        response = client.get_object(Bucket=bucket, Key=key)
    except ClientError as error:
        if _status(error) == 404:
            raise gone(uri) from error
        raise
    actual = Fingerprint.of(response["Body"].read()).sha256
    if actual != expected:
        raise changed(uri, actual, expected)
    return str(response["ETag"])


def _writer(client: Any, bucket: str, key: str) -> str | None:
    """The writer recorded by `put_if`; None if it is not known."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        writer = client.head_object(Bucket=bucket, Key=key)["Metadata"].get(_WRITER)
    except (ClientError, BotoCoreError):
        return None
    return None if writer is None else str(writer)


def _status(error: Exception) -> int:
    """The HTTP status of an error; 0 if there was no response."""
    response: dict[str, Any] = getattr(error, "response", {})
    return int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _try_conditions(client: Any, bucket: str, folder: str) -> bool:
    """Test both conditions with a temporary object; see `_conditions`."""
    key = f"{folder}.conditions-{uuid.uuid4().hex}"
    wrong = f'"{"0" * 32}"'

    def put(**condition: str) -> str | None:
        """The ETag of the written object; None if the condition was not met."""
        from botocore.exceptions import ClientError

        try:
            return str(client.put_object(Bucket=bucket, Key=key, Body=uuid.uuid4().bytes, **condition)["ETag"])
        except ClientError as error:
            if _status(error) in {404, 409, 412}:
                return None
            raise

    try:
        etag = put(IfNoneMatch="*")
        if etag is None or put(IfNoneMatch="*") is not None:
            raise _ignores("If-None-Match", bucket)
        for quoted in (True, False):
            if put(IfMatch=etag if quoted else etag.strip('"')) is not None:
                if put(IfMatch=wrong if quoted else wrong.strip('"')) is not None:
                    raise _ignores("If-Match", bucket)
                return quoted
        raise _ignores("If-Match", bucket)
    finally:
        _delete(client, bucket, key)


def _delete(client: Any, bucket: str, key: str) -> None:
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        client.delete_object(Bucket=bucket, Key=key)
    except (ClientError, BotoCoreError) as error:
        logger.warning("s3://%s/%s was written to test the server and cannot be deleted: %s", bucket, key, error)


def _conditions(variables: Environment, bucket: str, key: str) -> bool:
    """Whether the server expects an ETag in quotation marks, as the HTTP standard requires.

    Raises:
        StorageError: the server does not honour conditions, or does not answer.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    if not _endpoint_and_region(variables)[0]:
        return True  # AWS
    try:
        if (variables, bucket) not in _tried:
            _tried[variables, bucket] = _try_conditions(s3_client(variables), bucket, key[: key.rfind("/") + 1])
        return _tried[variables, bucket]
    except (ClientError, BotoCoreError) as error:
        raise StorageError(f"cannot write s3://{bucket}/{key}: {str(error)[:300]}") from error


def _ignores(header: str, bucket: str) -> StorageError:
    return StorageError(
        f"the S3 server of bucket {bucket!r} does not honour {header}, so two jobs could undo each other's writes; use "
        f"one that does, or set {UNCONDITIONAL}=1 if no other job writes there"
    )
