"""The step `gate`."""

from components.gate.component import gate as gate
