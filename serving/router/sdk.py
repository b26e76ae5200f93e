"""The parts of the KServe SDK that the router uses; why they come from one place is said there."""

from serving.kserve_sdk import InferOutput, InferRequest, InferResponse, InvalidInput, Model, ModelServer, app, quiet

__all__ = ["InferOutput", "InferRequest", "InferResponse", "InvalidInput", "Model", "ModelServer", "app", "quiet"]
