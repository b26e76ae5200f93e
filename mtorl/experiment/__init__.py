"""Defines online experiments, which compare policies on live traffic.

An experiment assigns each user to an arm. An arm is one policy: the incumbent, or one of its challengers. The outcomes
of the users then show which policy is better. Modules in reading order:

    experiment       the experiment file: users, arms, budgets, metrics, kill switch
    arm              one policy, and the server that runs it
    layers           selects one of several active experiments for each request
    paced_account    spreads an arm's part of a budget over time
    assignment       maps a user to an arm by a salted hash
    metrics          the metrics that an experiment file may use
    inference/       statistics, from sums per user to a verdict
    stage_machine    decides when an experiment moves to its next stage
    history          the events of an experiment
"""
