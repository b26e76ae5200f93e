"""Compares MTORL with ablations of MTORL and with other methods on the same data, for `mtorl benchmark paper`.

The files in reading order:

    task               a data set, divided into training, validation and test rows
    methods            the compared methods
    score              metrics of all methods on one task
    budget_curve       share of the gain that a share of the budget buys
    authors_protocol   evaluation with the data split of the paper's authors
    independence       tests whether the logged channels were drawn at random
    jobs               all work of a comparison, divided into jobs that can be resumed
    report             the page docs/results.md
"""
