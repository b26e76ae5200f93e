"""The step `publish`."""

from components.publish.component import publish as publish
