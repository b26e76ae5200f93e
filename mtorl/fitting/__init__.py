"""From a windows folder to the artifacts of both policies.

In reading order: `fit` (the two entry functions), `training_summary` (what an artifact says of its training data),
`pricing` (parameters of the decision rule), `kept_files` (what a training keeps on a volume), `worker` (a training as a
file, and the process that torchrun starts). The search for hyper-parameters: `search_space` (which, and between which
bounds), `settings` (of a training, as a file), `trial` (what is minimised), `search` (Optuna).
"""
