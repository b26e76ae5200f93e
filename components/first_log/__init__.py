"""The step `first-log`."""

from components.first_log.component import first_log as first_log
