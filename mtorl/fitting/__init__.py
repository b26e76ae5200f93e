"""Trains the incumbent and the challenger on a windows folder, saves their artifacts, and searches hyper-parameters.

The files in reading order:

    future         fits the value of later opportunities
    fit            trains both policies; start with `fit_incumbent` and `fit_challenger`
    worker         the process that torchrun starts, and the file with its task
    search_space   the hyper-parameters that a search may change
    settings       reads settings from files, and names the checkpoints of a training
    search         the hyper-parameter search with Optuna
"""
