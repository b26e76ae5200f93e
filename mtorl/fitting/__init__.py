"""Trains both policies on a windows folder and saves their artifacts.

In reading order: `future` (the value of later opportunities), `fit` (the two entry functions, and the facts about
training data in an artifact), `worker` (the process that torchrun starts, and its task file). Hyper-parameter search:
`search_space`, `settings` (settings of a training as a file, and its files on a volume), `search` (the objective, and
Optuna).
"""
