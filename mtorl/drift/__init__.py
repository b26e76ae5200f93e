"""Drift: the tests of a column, the sample that it is measured against, and the scores that are too high.

In reading order: `drift_tests.py` (what is asked of a column: a new test is one entry there), `reference.py` (samples
of users), `thresholds.py` (for a period of any size, as an artifact keeps them), `evidence.py` (evidence over many
periods, with a known rate of false alarms), `past_periods.py` (what earlier periods lead one to expect of the next).
`monitoring` checks periods with them.
"""
