"""Computes the verdict on an experiment from its decision log: whether a challenger is better than the incumbent.

In reading order:

- `period.py` is the entry point of the pipeline step and the command line;
- `hourly_sums.py` adds up decisions per user and hour, and `stored_sums.py` caches these sums in the lake;
- `counted_decisions.py` selects the decisions that count;
- `experiment_users.py` adds up the sums of each user, and `covariates.py` describes the user's past;
- `comparison.py` compares one challenger with the incumbent;
- `verdict.py` combines the comparisons into a verdict, and `segments.py` repeats them for segments of users;
- `stage_evidence.py` collects the evidence with which the stage machine decides about the next stage;
- `incumbent_users.py` summarises the incumbent's users for the plan of an experiment.
"""
