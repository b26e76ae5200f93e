"""TorchServe handlers, the KServe predictor, the A/B router, the budget ledger, the decision log."""
