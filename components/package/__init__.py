"""The step `package`."""

from components.package.component import package as package
