"""Turns predictions into a channel and a decision whether to show an ad there, within a budget.

Modules in reading order:

    decision              the decision rule
    exploration           randomises a share of the decisions
    price                 the price at which a policy's spend fits a budget
    schedule, periods     the time over which a budget is spent
    pacing                a price that follows spend
"""
