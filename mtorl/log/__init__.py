"""Defines the touchpoint log and the decision log: their columns, their storage, and how they are read.

Modules in reading order:

    gain                       the gain of an exposure
    sources, dataset           description of a data set in YAML; the built-in ones are in `datasets/`
    touchpoints                types, writer and fingerprint of the touchpoint log
    columns                    readers for JSON and Arrow columns
    times                      conversion of times
    splits                     training, validation and test users
    propensity                 probability with which the channel of each logged touchpoint was chosen
    records, decision_ids      fields and ids of the decision log
    lake, derived              storage of the decision log, and tables computed from it
    opportunities, trainings   decisions for training and evaluation, and the history of trainings
    forgotten                  users whose records must no longer be written
"""
