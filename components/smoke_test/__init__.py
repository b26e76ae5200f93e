"""The step `smoke-test`."""

from components.smoke_test.component import smoke_test as smoke_test
