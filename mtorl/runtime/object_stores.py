"""Opens the file system of an address: s3://, gs:// or abfss://.

    store, path = open_store("s3://ads/lake")       # AWS_REGION, or ?region=eu-central-1

Credentials come from the environment, by the names of each store's own tools, and are refused in an address: addresses
stand in logs, ConfigMaps and parameters of pipelines. AWS_ENDPOINT_URL names a server of one's own that speaks S3, or
`endpoint_override` and `scheme` in the address's query (the options of `pyarrow.fs.FileSystem.from_uri`).
"""

import os
import re

from pyarrow.fs import FileSystem, S3FileSystem

_CREDENTIALS = re.compile(r"(?<=://)[^/@]*:[^@]*@")  # a secret may hold slashes


def open_store(address: str) -> tuple[FileSystem, str]:
    """The file system of an address, and the path in it; raises OSError or ValueError."""
    if _CREDENTIALS.search(address):
        raise ValueError("take the credentials out of the address, and set them in the environment")
    options = {option.partition("=")[0] for option in address.partition("?")[2].split("&")}
    if address.startswith("s3://") and not options & {"region", "endpoint_override"}:
        endpoint = os.environ.get("AWS_ENDPOINT_URL")
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        if not endpoint and not region:  # pyarrow would ask Amazon, each time, and hang without a network
            raise ValueError("its region is missing: set AWS_REGION, or append ?region=eu-central-1, for instance")
        store = S3FileSystem(region=region or "us-east-1", endpoint_override=endpoint)
        return store, address.removeprefix("s3://").strip("/")
    store, path = FileSystem.from_uri(address)
    return store, path.strip("/")


def without_credentials(address: str) -> str:
    """An address as messages may show it."""
    return _CREDENTIALS.sub("...@", address)
