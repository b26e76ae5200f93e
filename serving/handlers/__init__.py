"""TorchServe handlers over one base: both decisions, the channel alone, the budget alone."""
