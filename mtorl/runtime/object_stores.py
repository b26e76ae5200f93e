"""Opens the file system at the address of an object store: s3://, gs:// or abfss://.

    store, path = open_store("s3://ads/lake")       # AWS_REGION, or ?region=eu-central-1

Credentials come from the environment, in the variables that each store's own tools read. An address with credentials is
refused, since addresses appear in logs, ConfigMaps and pipeline parameters. For another server with the S3 API, set
AWS_ENDPOINT_URL, or `endpoint_override` and `scheme` in the address's query (see `pyarrow.fs.FileSystem.from_uri`).
"""

import os
import re

from pyarrow.fs import FileSystem, S3FileSystem

_CREDENTIALS = re.compile(r"(?<=://)[^/@]*:[^@]*@")  # a secret may contain slashes


def open_store(address: str) -> tuple[FileSystem, str]:
    """The file system of an address, and the path in it; raises OSError or ValueError."""
    if _CREDENTIALS.search(address):
        raise ValueError("remove the credentials from the address, and set them in the environment")
    options = {option.partition("=")[0] for option in address.partition("?")[2].split("&")}
    if address.startswith("s3://") and not options & {"region", "endpoint_override"}:
        endpoint = os.environ.get("AWS_ENDPOINT_URL")
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        if not endpoint and not region:  # pyarrow would request it from Amazon, and hang without a network
            raise ValueError("the region is missing: set AWS_REGION, or append ?region=REGION, such as eu-central-1")
        store = S3FileSystem(region=region or "us-east-1", endpoint_override=endpoint)
        return store, address.removeprefix("s3://").strip("/")
    store, path = FileSystem.from_uri(address)
    return store, path.strip("/")


def without_credentials(address: str) -> str:
    """An address with its credentials masked, for messages."""
    return _CREDENTIALS.sub("...@", address)
