"""Serves decisions: TorchServe handlers, KServe predictor, A/B router, budget ledger, decision log (see README.md)."""
