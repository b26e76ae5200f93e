"""The router's settings: one YAML file, read at the start.

    settings = RouterSettings.load("router.yaml")      # paths are relative to the file's folder

All settings with their types are in docs/schemas/router-settings.json, and manifests/base/router/config/router.yaml is
an example. Three environment variables override settings: MTORL_LAKE replaces `lake`, MTORL_TRACING replaces the
endpoint of `tracing` and switches tracing on, and K_SINK, which Knative sets, replaces `sink`.
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
    """Convert a path to an absolute one. Relative paths start at the folder of the settings file."""
    if not isinstance(value, str) or not value.strip():
        raise PydanticCustomError("path", "expected a path, got {value}", {"value": short(value)})
    return (Path((info.context or {}).get("folder", ".")) / value).absolute()


def _ledger(value: Any, info: ValidationInfo) -> Path | str:
    if not isinstance(value, str) or "://" not in value:
        return _path(value, info)
    locate(value)  # raises ValueError for a URL that is not that of a ledger
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
    parts = urlsplit(url)  # both `urlsplit` and `port` raise ValueError, for invalid brackets or ports
    named = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    if not named or parts.query or parts.fragment or parts.path.rstrip("/").endswith("/v1/traces"):
        raise ValueError(f"expected the URL of a collector, such as http://otel-collector:4318, got {short(url)}")
    return url


PathSetting = Annotated[Path, PlainValidator(_path, json_schema_input_type=str)]
PortSetting = Annotated[int, Field(ge=0, lt=65536)]


class NoAuth(StrictModel):
    """All callers may send requests."""

    kind: Literal["none"]


class TokenAuth(StrictModel):
    """Callers need one of the tokens in the file, which has one token a line."""

    kind: Literal["token"]
    file: PathSetting


class Tracing(StrictModel):
    """The collector to send traces to, and the share of requests to trace."""

    endpoint: Annotated[Text, AfterValidator(_collector)]
    """URL of an OpenTelemetry collector that accepts OTLP over HTTP, without /v1/traces."""
    share: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Share of requests to trace. If a caller sends `traceparent`, this decides instead."""


class RouterSettings(StrictModel):
    """Settings of one router process."""

    port: PortSetting
    """HTTP port; 0 selects a free port."""
    experiment: PathSetting
    """The experiment's file, or a folder with several files *.yaml. Files are read again when they change."""
    operator: Text | None = None
    """URL of the experiments' operator, which is polled every second for the active experiments. The files apply while
    the operator does not answer. null: only the files apply."""
    budget_tables: PathSetting | None = None
    """Folder of the budget tables that experiments name; null: the folder of the experiment's file."""
    dataset: PathSetting
    """Description of the data set."""
    feature_repo: PathSetting
    """Folder with feature_store.yaml."""
    ledger: Annotated[Path | str, PlainValidator(_ledger, json_schema_input_type=str)]
    """The budget ledger: a file, or redis[+cluster]://host:port/database?name=NAME."""
    spool: PathSetting
    """Folder of the decision log on disk, where records stay until they are in the lake."""
    lake: Annotated[Text, AfterValidator(_lake)]
    """Permanent store of the decision log: a folder, s3://bucket/prefix?region=R or gs://bucket/prefix. The query may
    have further options (`endpoint_override` instead of `region`). Credentials come from the environment."""
    cost_cap: Annotated[dict[Text, Annotated[float, Field(ge=0)]], Field(min_length=1)]
    """Highest possible cost of an exposure by channel, currency units. This amount is reserved for an exposure."""
    auth: Annotated[NoAuth | TokenAuth, Field(discriminator="kind")]
    """Authentication of callers."""
    feature_service: Text = "ad_decision_v1"
    deadline_ms: Annotated[float, Field(gt=0)] = 50.0
    """Deadline of a decision, for all of its stages together, milliseconds."""
    reservation_ttl_hours: Annotated[float, Field(gt=0)] = 24.0
    """Age at which a reservation without a reported cost expires, hours."""
    model_name: Text = "ads"
    """Name of the model in the URL."""
    host: Text = "127.0.0.1"
    """Address to listen on; 0.0.0.0 in a container."""
    max_body_bytes: Annotated[int, Field(ge=1)] = 1 << 20
    """Largest body of a request. Larger ones get 413."""
    max_in_flight: Annotated[int, Field(ge=1)] = 64
    """Highest number of requests in flight. Further requests may get 429."""
    drills: bool = False
    """Whether faults can be injected at /v1/drills."""
    sink: Annotated[Text, Field(pattern="^https?://")] | None = None
    """URL to which the log is sent as CloudEvents; null: it is not sent."""
    upload_seconds: Annotated[float, Field(ge=0)] = 60.0
    """Time for which records gather before an upload, seconds. Each upload is a file, and readers of the lake see
    records later by this time."""
    window_share: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Share of users whose windows are logged for estimates and replays. Windows are larger than all other records."""
    tracing: Tracing | None = None
    """Traces of requests; null: none."""
    spool_max_bytes: Annotated[int, Field(ge=1)] = MAX_BYTES
    """Quota of the spool. At this size, decisions take the default action and outcomes get 503."""

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
