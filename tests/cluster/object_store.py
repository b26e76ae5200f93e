"""Runs moto's S3 server in a pod, with the packages installed on this machine."""

import importlib.util
import subprocess
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

import yaml

from tests.cluster.kubectl import kubectl
from tests.cluster.running import IDLE
from tests.repository import ROOT
from tests.waiting import eventually

PORT = 9000
LAKES = ROOT / "tests" / "lakes.py"
KEY, SECRET = "AKIATESTSECONDDAY", "secret-of-the-second-day"
# Packages that moto.server imports for S3. They must fit the Python version of the router's image.
# fmt: off
PACKAGES = [
    "moto", "boto3", "botocore", "s3transfer", "jmespath", "dateutil", "six", "urllib3", "requests", "certifi",
    "idna", "charset_normalizer", "responses", "xmltodict", "yaml", "cryptography", "_cffi_backend", "werkzeug",
    "flask", "flask_cors", "blinker", "click", "itsdangerous", "jinja2", "markupsafe",
]
# fmt: on
SERVE = f"""
until [ -f /tmp/all-is-here ]; do sleep 1; done
python -m moto.server -H 0.0.0.0 -p {PORT} >/tmp/log 2>&1 &
echo $! >/tmp/server
sleep infinity
"""
MAKE_BUCKET = f"""
import boto3
boto3.client("s3", endpoint_url="http://127.0.0.1:{PORT}", region_name="us-east-1").create_bucket(Bucket="ads")
"""


class ObjectStore:
    """An S3 server in a pod, with an empty bucket named `ads`."""

    def __init__(self, namespace: str, image: str) -> None:
        self.namespace = namespace
        self.lake = self._address(f"s3.{namespace}:{PORT}")
        pod = yaml.safe_load(IDLE)
        (container,) = pod["spec"]["containers"]
        environment = {
            "S3_IGNORE_SUBDOMAIN_BUCKETNAME": "true",
            "PYTHONPATH": "/tmp/packages",
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
        }
        container |= {
            "image": image,
            "command": ["sh", "-c", SERVE],
            "env": [{"name": name, "value": value} for name, value in environment.items()],
            "resources": {"requests": {"cpu": "10m", "memory": "256Mi"}, "limits": {"cpu": "1", "memory": "2Gi"}},
        }
        pod["metadata"] = {"name": "s3", "labels": {"app": "s3"}}
        service = {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "s3"},
            "spec": {"selector": {"app": "s3"}, "ports": [{"port": PORT}]},
        }
        kubectl("create", "namespace", namespace)
        kubectl("-n", namespace, "apply", "-f", "-", stdin=yaml.safe_dump_all([pod, service]))
        kubectl("-n", namespace, "wait", "--for=condition=Ready", "pod/s3", "--timeout=120s")
        self._unpack()
        make = ["kubectl", "-n", namespace, "exec", "s3", "--", "python", "-c", MAKE_BUCKET]
        eventually(lambda: subprocess.run(make, capture_output=True).returncode == 0)

    def _unpack(self) -> None:
        found = [importlib.util.find_spec(name) for name in PACKAGES]
        paths = [Path(spec.origin) for spec in found if spec and spec.origin]
        places = {path.parent if path.name == "__init__.py" else path for path in paths}
        owners = metadata.packages_distributions()
        for file in (file for name in PACKAGES for owner in owners[name] for file in metadata.files(owner) or ()):
            if file.name == "METADATA":
                places.add(Path(str(file.locate())).parent)
        words = ["tar", "-cz", "--exclude=__pycache__", "--exclude=tests"]
        words += [word for place in sorted(places) for word in ("-C", str(place.parent), place.name)]
        into = "mkdir /tmp/packages && tar -xz -C /tmp/packages && touch /tmp/all-is-here"
        with subprocess.Popen(words, stdout=subprocess.PIPE) as packed:
            command = ["kubectl", "-n", self.namespace, "exec", "-i", "s3", "--", "sh", "-c", into]
            subprocess.run(command, stdin=packed.stdout, check=True, timeout=300)

    @contextmanager
    def away(self) -> Iterator[None]:
        """Simulate an outage during the block: open connections hang, and new connections are refused."""
        self._signal("STOP", "nothing")
        try:
            yield
        finally:
            self._signal("CONT", "s3")

    def _signal(self, signal: str, app: str) -> None:
        selector = f'{{"spec": {{"selector": {{"app": "{app}"}}}}}}'
        kubectl("-n", self.namespace, "patch", "service", "s3", "-p", selector)
        kubectl("-n", self.namespace, "exec", "s3", "--", "sh", "-c", f"kill -{signal} $(cat /tmp/server)")

    def run(self, code: str, *arguments: str) -> str:
        """Run Python code in the server's pod, where `lake` and its database `db` are predefined."""
        opened = f"lake = Lake.open({self._address(f'127.0.0.1:{PORT}')!r})\nwith lake_database(lake) as db:\n"
        program = f"{LAKES.read_text()}\nimport sys\n{opened}{textwrap.indent(code.strip(), '    ')}\n"
        return kubectl("-n", self.namespace, "exec", "-i", "s3", "--", "python", "-", *arguments, stdin=program)

    def _address(self, host: str) -> str:
        return f"s3://ads/lake?endpoint_override={host}&scheme=http&region=us-east-1"
