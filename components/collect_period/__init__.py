"""The step `collect_period`."""

from components.collect_period.component import collect_period as collect_period
