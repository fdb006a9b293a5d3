"""S3: one set of settings for both of its clients, and writes that depend on what is there.

pyarrow reads, lists and uploads. A conditional write (`If-None-Match: *`, `If-Match: <etag>`) goes through boto3,
because pyarrow has none. Servers differ in it: some ignore the header, and Ceph 16 refuses an ETag in quotation marks.
Each server but AWS is therefore tried once per bucket, on an object of its own beside the file; one that ignores a
condition is refused, unless `CRYSTALIGN_S3_UNCONDITIONAL=1` says that nobody else writes there.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import time
import uuid
from typing import Any
from urllib.parse import urlsplit

from pyarrow import fs

from crystalign.errors import ConflictError, StorageError, VerificationError
from crystalign.storage_local import changed, gone

S3_ENVIRONMENT = {
    "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
    "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
}
"""Without these, several S3 servers drop an upload while the client reports success."""
CONNECT_TIMEOUT, REQUEST_TIMEOUT, ATTEMPTS = 10.0, 60.0, 4
UNCONDITIONAL = "CRYSTALIGN_S3_UNCONDITIONAL"
"""Environment variable: set to 1, conditions are compared before the write and not by the server."""
_PLACES = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_REGION", "AWS_DEFAULT_REGION")
_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
_WRITER = "crystalign-writer"
"""Metadata of a conditional write: who made it, to know our own after a lost reply."""

Environment = tuple[str, ...]
_tried: dict[tuple[Environment, str], bool] = {}
"""Server and bucket → what `_conditions` found."""

logger = logging.getLogger(__name__)


def environment() -> Environment:
    """What decides which server is meant, and as whom."""
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
    """The boto3 client for `environment()`; it addresses buckets as `s3_filesystem` does."""
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
    """Write an object if what is there is what the caller knows of it; the server decides, atomically.

    Args:
        bucket: of the object.
        key: of the object.
        data: its new content.
        expected: SHA-256 of its content now; None where there must be none.

    Raises:
        ConflictError: there is an object, or another one, or none.
        StorageError: the server does not answer, or ignores conditions.
        VerificationError: what is read back is not `data`.
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
                break  # an earlier attempt arrived and its reply was lost; boto3 repeated it
            if _status(error) != 409 or attempt == ATTEMPTS:
                raise _refusal(error, client, bucket, key, expected) from error
            time.sleep(0.1 * 2**attempt)  # another conditional write was under way
        else:
            break
    _verify(client, bucket, key, data, writer)


def unconditional() -> bool:
    """Whether the user says that nobody else writes to these buckets."""
    return os.environ.get(UNCONDITIONAL, "") == "1"


def _endpoint_and_region(variables: Environment) -> tuple[str, str]:
    return variables[0] or variables[1], variables[2] or variables[3] or "us-east-1"


def _refusal(error: Exception, client: Any, bucket: str, key: str, expected: str | None) -> StorageError:
    """What a failed write means."""
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
    """Read an object back; one that a later conditional write replaced was stored."""
    from botocore.exceptions import BotoCoreError, ClientError

    uri = f"s3://{bucket}/{key}"
    try:
        answer = client.get_object(Bucket=bucket, Key=key)
        found, by = answer["Body"].read(), answer["Metadata"].get(_WRITER, writer)
    except (ClientError, BotoCoreError) as error:
        raise VerificationError(f"{uri} cannot be read back: {str(error)[:300]}") from error
    if found != data and by == writer:
        raise VerificationError(f"{uri} holds {len(found)} bytes that are not the {len(data)} that were written")


def _etag(client: Any, bucket: str, key: str, expected: str) -> str:
    """The ETag of an object whose content has a certain SHA-256.

    Raises:
        ConflictError: it has another one, or there is none.
    """
    from botocore.exceptions import ClientError

    uri = f"s3://{bucket}/{key}"
    try:
        answer = client.get_object(Bucket=bucket, Key=key)
    except ClientError as error:
        if _status(error) == 404:
            raise gone(uri) from error
        raise
    found = hashlib.sha256(answer["Body"].read()).hexdigest()
    if found != expected:
        raise changed(uri, found, expected)
    return str(answer["ETag"])


def _writer(client: Any, bucket: str, key: str) -> str | None:
    """Who wrote an object, by `put_if`; None where that cannot be known."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        found = client.head_object(Bucket=bucket, Key=key)["Metadata"].get(_WRITER)
    except (ClientError, BotoCoreError):
        return None
    return None if found is None else str(found)


def _status(error: Exception) -> int:
    """The HTTP status of an answer; 0 where there was none."""
    response: dict[str, Any] = getattr(error, "response", {})
    return int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _try_conditions(client: Any, bucket: str, folder: str) -> bool:
    """Try both conditions on an object of their own; see `_conditions`."""
    key = f"{folder}.conditions-{uuid.uuid4().hex}"
    wrong = f'"{"0" * 32}"'

    def put(**condition: str) -> str | None:
        """The ETag of what was written; None where the condition was not met."""
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
        logger.warning("s3://%s/%s was written to try the server and cannot be deleted: %s", bucket, key, error)


def _conditions(variables: Environment, bucket: str, key: str) -> bool:
    """Whether the server wants an ETag in quotation marks, as the standard has it.

    Raises:
        StorageError: it does not honour conditions, or does not answer.
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
