"""The step `notify`."""

from components.notify.component import notify as notify
