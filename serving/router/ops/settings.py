"""The router's settings: one YAML file, read at the start.

The environment variables MTORL_LAKE, MTORL_TRACING and K_SINK override the settings `lake`, `tracing.endpoint` and
`sink`.
"""

import os
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, PlainValidator, ValidationInfo
from pydantic_core import PydanticCustomError

from mtorl.log.lake import Lake
from mtorl.log.touchpoints import LogError
from mtorl.runtime.errors import InputError
from mtorl.runtime.validation import StrictModel, Text, read_yaml, short, validated
from serving.decision_log.spool import MAX_BYTES
from serving.ledger.location import locate


class SettingsError(InputError, ValueError):
    """Raised if a setting is not valid. The message names the setting."""


def _path(value: Any, info: ValidationInfo) -> Path:
    """Make a path absolute, relative to the folder of the settings file."""
    if not isinstance(value, str) or not value.strip():
        raise PydanticCustomError("path", "expected a path, got {value}", {"value": short(value)})
    return (Path((info.context or {}).get("folder", ".")) / value).absolute()


def _ledger(value: Any, info: ValidationInfo) -> Path | str:
    if not isinstance(value, str) or "://" not in value:
        return _path(value, info)
    locate(value)  # raises ValueError for an invalid URL
    return value


def _lake(value: str, info: ValidationInfo) -> str:
    if "://" not in value:
        return str(_path(value, info))
    try:
        Lake.open(value)
    except LogError as error:
        raise ValueError(str(error)) from None
    return value


def _collector(url: str) -> str:
    if "@" in url:
        raise ValueError("expected a URL without a password; what is secret belongs in OTEL_EXPORTER_OTLP_HEADERS")
    parts = urlsplit(url)  # `urlsplit` and `parts.port` raise ValueError for invalid brackets or ports
    named = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    if not named or parts.query or parts.fragment or parts.path.rstrip("/").endswith("/v1/traces"):
        raise ValueError(f"expected the URL of a collector, such as http://otel-collector:4318, got {short(url)}")
    return url


PathSetting = Annotated[Path, PlainValidator(_path, json_schema_input_type=str)]
PortSetting = Annotated[int, Field(ge=0, lt=65536)]


class NoAuth(StrictModel):
    """No authentication: all callers may send requests."""

    kind: Literal["none"]


class TokenAuth(StrictModel):
    """Authentication by tokens: each request must contain one of the tokens in a file with one token per line."""

    kind: Literal["token"]
    file: PathSetting


class Tracing(StrictModel):
    """Settings of tracing: the collector to which the router sends traces, and the share of requests to trace."""

    endpoint: Annotated[Text, AfterValidator(_collector)]
    """URL of an OpenTelemetry collector that accepts OTLP over HTTP, without /v1/traces."""
    share: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Share of requests to trace. If a request has the header `traceparent`, that header decides instead."""


class RouterSettings(StrictModel):
    """Settings of one router process."""

    port: PortSetting
    """HTTP port; 0 selects a free port."""
    experiment: PathSetting
    """File of the experiment, or folder with several files *.yaml. The router reads the files again when they change.
    """
    operator: Text | None = None
    """URL of the operator of experiments. The router asks it every second for the active experiments. While it does not
    answer, the router uses the files of `experiment`. null: only the files are used."""
    budget_tables: PathSetting | None = None
    """Folder of the budget tables that experiment files refer to; null: the folder of the experiment's file."""
    dataset: PathSetting
    """File that describes the data set."""
    feature_repo: PathSetting
    """Folder of the Feast repository, which contains feature_store.yaml."""
    ledger: Annotated[Path | str, PlainValidator(_ledger, json_schema_input_type=str)]
    """The budget ledger: a file, or redis[+cluster]://host:port/database?name=NAME."""
    spool: PathSetting
    """Folder of the spool: the part of the decision log on local disk. Records stay there until they are uploaded to
    the lake."""
    lake: Annotated[Text, AfterValidator(_lake)]
    """The lake, which stores the decision log permanently: a folder, s3://bucket/prefix?region=R or gs://bucket/prefix.
    The query may have further options, such as `endpoint_override` instead of `region`. Credentials come from the
    environment."""
    cost_cap: Annotated[dict[Text, Annotated[float, Field(ge=0)]], Field(min_length=1)]
    """Highest possible cost of an exposure by channel, in currency units. The router reserves this amount before an
    exposure, unless the request contains a lower one."""
    auth: Annotated[NoAuth | TokenAuth, Field(discriminator="kind")]
    """Authentication of callers."""
    feature_service: Text = "ad_decision_v1"
    deadline_ms: Annotated[float, Field(gt=0)] = 50.0
    """Time limit for a decision, for all of its stages together, in milliseconds."""
    reservation_ttl_hours: Annotated[float, Field(gt=0)] = 24.0
    """Age in hours at which a reservation expires if no cost was reported. Its amount is then released."""
    model_name: Text = "ads"
    """Name of the model in the URL."""
    host: Text = "127.0.0.1"
    """Address to listen on; 0.0.0.0 in a container."""
    max_body_bytes: Annotated[int, Field(ge=1)] = 1 << 20
    """Largest body of a request in bytes. A larger request gets the status 413."""
    max_in_flight: Annotated[int, Field(ge=1)] = 64
    """Largest number of requests that are processed at the same time. Further requests may get the status 429."""
    drills: bool = False
    """Whether callers may inject faults at /v1/drills, for tests."""
    sink: Annotated[Text, Field(pattern="^https?://")] | None = None
    """URL to which the router sends the decision log as CloudEvents; null: nowhere."""
    upload_seconds: Annotated[float, Field(ge=0)] = 60.0
    """Seconds between two uploads to the lake. Each upload writes a file, so a short time makes many small files. With
    a long time, readers of the lake see records later."""
    window_share: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Share of users whose windows are logged, to estimate policy values and to replay decisions. A window is larger
    than all other records of its decision."""
    tracing: Tracing | None = None
    """Settings of tracing; null: no traces."""
    spool_max_bytes: Annotated[int, Field(ge=1)] = MAX_BYTES
    """Largest size of the spool in bytes. When the spool is full, decisions take the default action, and reports of
    outcomes get the status 503."""

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read the YAML file; raises SettingsError."""
        path = Path(path)
        data = read_yaml(path, "the router's settings", SettingsError)
        if isinstance(data, dict) and (lake := os.environ.get("MTORL_LAKE")):
            data["lake"] = lake
        if isinstance(data, dict) and (endpoint := os.environ.get("MTORL_TRACING")):
            given = data.get("tracing") or {}
            data["tracing"] = {**given, "endpoint": endpoint} if isinstance(given, dict) else given
        try:
            return validated(cls, data, SettingsError, path.parent)
        except SettingsError as error:
            raise SettingsError(f"{path}: {error}") from None
