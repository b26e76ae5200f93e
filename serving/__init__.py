"""The request path: TorchServe handlers, KServe predictor, A/B router, budget ledger, decision log (README.md)."""
