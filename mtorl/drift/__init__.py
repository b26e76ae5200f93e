"""Detects drift: the tests of a column, the reference sample for comparison, and thresholds for the scores.

In reading order: `drift_tests.py` (the tests of a column; a new test is an entry in it), `reference.py` (samples of
users), `thresholds.py` (thresholds for a period of any size, as stored in an artifact), `evidence.py` (evidence over
many periods, with a known rate of false alarms), `past_periods.py` (a forecast for the next period from earlier
periods). `monitoring` uses these files to check periods.
"""
