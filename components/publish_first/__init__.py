"""The step `publish-first`."""

from components.publish_first.component import publish_first as publish_first
