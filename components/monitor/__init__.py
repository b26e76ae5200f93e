"""The step `monitor`."""

from components.monitor.component import monitor as monitor
