"""The step `collect`."""

from components.collect.component import collect as collect
