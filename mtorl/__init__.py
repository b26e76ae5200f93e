"""The decision science of MTORL: data contract, simulator, network, evaluation, decision rule, experiments."""

__version__ = "0.1.0"
