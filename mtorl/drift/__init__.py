"""Detects drift: changes of the data in production, compared with the training data or with earlier periods.

`monitoring` uses these files to check each period, for example each day. The files in reading order:

    drift_tests.py    the tests of a column; a new test is one new entry in this file
    reference.py      samples of users and of their touchpoints
    thresholds.py     thresholds of the tests for periods of any size, stored in the artifact
    evidence.py       evidence of a change, summed over periods, with a known rate of false alarms
    past_periods.py   a forecast of the next period's value from earlier periods
"""
