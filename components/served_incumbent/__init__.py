"""The step `served-incumbent`."""

from components.served_incumbent.component import served_incumbent as served_incumbent
