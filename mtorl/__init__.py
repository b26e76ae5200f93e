"""The decision science of MTORL: data contract, simulator, network, evaluation, decision rule, experiments."""

import os

# Without this, onnxruntime sends usage data to its vendor. Set before onnxruntime is imported; subprocesses inherit it.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__version__ = "0.1.0"
