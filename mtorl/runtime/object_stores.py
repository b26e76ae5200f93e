"""Opens the file system at the address of an object store, such as s3://, gs:// or abfss://.

Credentials come from environment variables. An address that contains credentials is rejected, because addresses appear
in logs.
"""

import os
import re

from pyarrow.fs import FileSystem, S3FileSystem

_CREDENTIALS = re.compile(r"(?<=://)[^/@]*:[^@]*@")  # the secret may contain slashes


def open_store(address: str) -> tuple[FileSystem, str]:
    """Return the file system of an address, and the path in this file system.

    Raises:
        OSError: The file system can't be opened.
        ValueError: The address is invalid, contains credentials, or lacks a region.
    """
    if _CREDENTIALS.search(address):
        raise ValueError("remove the credentials from the address, and set them in the environment")
    options = {option.partition("=")[0] for option in address.partition("?")[2].split("&")}
    if address.startswith("s3://") and not options & {"region", "endpoint_override"}:
        endpoint = os.environ.get("AWS_ENDPOINT_URL")
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        # Without a region, pyarrow asks Amazon for it, and hangs if there is no network.
        if not endpoint and not region:
            raise ValueError("the region is missing: set AWS_REGION, or append ?region=REGION, such as eu-central-1")
        store = S3FileSystem(region=region or "us-east-1", endpoint_override=endpoint)
        return store, address.removeprefix("s3://").strip("/")
    store, path = FileSystem.from_uri(address)
    return store, path.strip("/")


def without_credentials(address: str) -> str:
    """Return an address in which credentials are replaced by "...", for messages."""
    return _CREDENTIALS.sub("...@", address)
