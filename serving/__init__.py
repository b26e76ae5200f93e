"""TorchServe handlers, the A/B router, the budget ledger, the decision log."""
