"""The same artifact without TorchServe: a plain KServe model."""
