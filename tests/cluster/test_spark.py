"""Test that the Spark Operator runs the commands of components/spark-features/README.md.

The test needs the images in $IMAGES and a Spark Operator that watches the namespace $SPARK_NAMESPACE. The test creates
this namespace, and deletes it at the end.
"""

import os
import subprocess
from pathlib import Path

import pytest

from tests.cluster.kubectl import Object, get, kubectl
from tests.cluster.running import Running
from tests.manifests.conftest import MANIFESTS
from tests.waiting import eventually

pytestmark = [pytest.mark.cluster, pytest.mark.node]

RUN = "mtorl-features-now"
BUILT = """
import json
from pathlib import Path
built = Path("/mnt/mtorl/built")
print(json.loads((built / "windows" / "manifest.json").read_text())["rows"], *(one.name for one in built.iterdir()))
"""


def test_the_commands_of_the_page_build_what_training_reads(
    images: list[Object], tmp_path: Path, ended: list[str]
) -> None:
    if not (namespace := os.environ.get("SPARK_NAMESPACE", "")):
        pytest.skip("set SPARK_NAMESPACE to a namespace that a Spark Operator watches")
    installed = Running(tmp_path, images, namespace)
    ended += [installed.namespace, installed.gateway]
    installed.install("tests/spark-features")
    installed.bootstrap()
    page = (MANIFESTS / "components" / "spark-features" / "README.md").read_text()
    commands = page.partition("## Run it now\n")[2].partition("```bash\n")[2].partition("```")[0]
    subprocess.run(["bash", "-ec", commands.replace("-n mtorl", f"-n {namespace}")], check=True, timeout=60)

    def state() -> str:
        status = get(namespace, "sparkapplication", RUN).get("status", {})
        return str(status.get("applicationState", {}).get("state"))

    def log() -> str:
        return state() + kubectl("-n", namespace, "logs", f"{RUN}-driver", "--tail=30", allowed=(0, 1))

    eventually(lambda: state() in ("COMPLETED", "FAILED"), 600, log)
    assert state() == "COMPLETED", log()
    rows, *built = installed.in_router(BUILT).split()
    assert int(rows) > 0 and "windows" in built
