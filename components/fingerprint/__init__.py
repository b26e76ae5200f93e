"""The step `fingerprint`."""

from components.fingerprint.component import fingerprint as fingerprint
