"""How torchrun starts the processes of a training; names alone, since what compiles pipelines has no torch."""

LAUNCHER = ("-m", "torch.distributed.run")
WORKER = ("-m", "mtorl.fitting.worker")
RESTARTABLE = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
"""Of the launcher's environment. Without it, processes that are started again would look for each other where those
before them were (https://github.com/pytorch/pytorch/issues/135712)."""
