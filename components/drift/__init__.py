"""The step `drift`."""

from components.drift.component import drift as drift
