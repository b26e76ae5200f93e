"""From a windows folder to the artifacts of both policies.

In reading order: `fit` (the two entry functions), `training_summary` (an artifact's training data), `kept_files` (files
of a training on a volume), `worker` (a training as a file, and the process that torchrun starts). The search for
hyper-parameters: `search_space`, `settings` (of a training, as a file), `search` (what is minimised, and Optuna).
"""
