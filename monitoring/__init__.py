"""Drift, alerts, verdicts and reports."""
