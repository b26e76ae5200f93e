"""The decision science of MTORL: data contract, simulator, network, evaluation, decision rule, experiments."""

import os

# Stop onnxruntime from sending usage data to its vendor. This must be set before onnxruntime is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__version__ = "0.1.0"
