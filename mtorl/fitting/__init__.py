"""Trains both policies on a windows folder and saves their artifacts.

In reading order: `future` (the value of later opportunities), `fit` (the two entry functions, and what an artifact says
of its training data), `worker` (a training as a file, and the process that torchrun starts). The search for
hyper-parameters: `search_space`, `settings` (of a training, as a file, and what it keeps on a volume), `search` (what
is minimised, and Optuna).
"""
