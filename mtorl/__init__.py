"""The decision science of MTORL: data contract, simulator, network, evaluation, decision rule, experiments."""

import os

# onnxruntime reports its use to its vendor unless this is set before the import, here or in a process that we start.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__version__ = "0.1.0"
