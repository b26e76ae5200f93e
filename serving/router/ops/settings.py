"""The router's settings: one YAML file, read at the start.

    settings = RouterSettings.load("router.yaml")      # relative paths start at the file's folder

All settings with their types: docs/schemas/router-settings.json; an example: manifests/base/router/config/router.yaml.
The environment variable MTORL_LAKE replaces `lake`; MTORL_TRACING replaces the endpoint of `tracing`, and switches it
on where it is off; K_SINK, which Knative sets, comes before `sink`.
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
    """A setting is wrong; the message names it."""


def _path(value: Any, info: ValidationInfo) -> Path:
    """A path; a relative one starts at the folder of the settings file."""
    if not isinstance(value, str) or not value.strip():
        raise PydanticCustomError("path", "expected a path, got {value}", {"value": short(value)})
    return (Path((info.context or {}).get("folder", ".")) / value).absolute()


def _ledger(value: Any, info: ValidationInfo) -> Path | str:
    if not isinstance(value, str) or "://" not in value:
        return _path(value, info)
    locate(value)  # raises ValueError for a URL that names no ledger
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
    parts = urlsplit(url)  # raises ValueError for a wrong port or bracket, as `port` does
    named = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    if not named or parts.query or parts.fragment or parts.path.rstrip("/").endswith("/v1/traces"):
        raise ValueError(f"expected the URL of a collector, such as http://otel-collector:4318, got {short(url)}")
    return url


PathSetting = Annotated[Path, PlainValidator(_path, json_schema_input_type=str)]
PortSetting = Annotated[int, Field(ge=0, lt=65536)]


class NoAuth(StrictModel):
    """Every caller may send requests."""

    kind: Literal["none"]


class TokenAuth(StrictModel):
    """Callers who send one of the tokens in the file, a line each."""

    kind: Literal["token"]
    file: PathSetting


class Tracing(StrictModel):
    """Address that traces are sent to, and the share of requests that are traced."""

    endpoint: Annotated[Text, AfterValidator(_collector)]
    """URL of an OpenTelemetry collector that takes OTLP over HTTP, without /v1/traces."""
    share: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Of the requests whose callers do not say, in `traceparent`, whether they are traced."""


class RouterSettings(StrictModel):
    """Settings of one router process."""

    port: PortSetting
    """Of HTTP; 0 takes a free one."""
    experiment: PathSetting
    """The experiment's file, or a folder of several, named *.yaml; read again when they change."""
    operator: Text | None = None
    """URL of the experiments' operator, which is asked every second what is in force; the files count while it does
    not answer. null: the files alone."""
    budget_tables: PathSetting | None = None
    """Folder of the budget tables that experiments name; null: that of the experiment's file."""
    dataset: PathSetting
    """Description of the data set."""
    feature_repo: PathSetting
    """Folder with feature_store.yaml."""
    ledger: Annotated[Path | str, PlainValidator(_ledger, json_schema_input_type=str)]
    """A file, or redis[+cluster]://host:port/database?name=NAME."""
    spool: PathSetting
    """Folder of the decision log, until it is in the lake."""
    lake: Annotated[Text, AfterValidator(_lake)]
    """Where the decision log is kept: a folder, s3://bucket/prefix?region=R or gs://bucket/prefix, with further options
    in the query (`endpoint_override` in place of `region`) and credentials in the environment."""
    cost_cap: Annotated[dict[Text, Annotated[float, Field(ge=0)]], Field(min_length=1)]
    """Highest possible cost of an exposure in each channel, currency units: this much is reserved for it."""
    auth: Annotated[NoAuth | TokenAuth, Field(discriminator="kind")]
    """Who may send requests."""
    feature_service: Text = "ad_decision_v1"
    deadline_ms: Annotated[float, Field(gt=0)] = 50.0
    """Of a decision, for all of its stages together."""
    reservation_ttl_hours: Annotated[float, Field(gt=0)] = 24.0
    """A reservation whose cost was not reported by then expires."""
    model_name: Text = "ads"
    """Of the model in the URL."""
    host: Text = "127.0.0.1"
    """Address to listen on; 0.0.0.0 in a container."""
    max_body_bytes: Annotated[int, Field(ge=1)] = 1 << 20
    """Larger requests are refused."""
    max_in_flight: Annotated[int, Field(ge=1)] = 64
    """Requests that are worked on at once; further ones may be refused with 429."""
    drills: bool = False
    """Whether faults can be injected, at /v1/drills."""
    sink: Annotated[Text, Field(pattern="^https?://")] | None = None
    """URL to which the log is sent as CloudEvents; null: nowhere."""
    upload_seconds: Annotated[float, Field(ge=0)] = 60.0
    """For which records gather before they are uploaded: readers of the lake see them so much later, and each upload
    is a file."""
    window_share: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Share of the users whose windows are logged, for estimates and replays; they are larger than all the rest."""
    tracing: Tracing | None = None
    """Traces of requests; null: none."""
    spool_max_bytes: Annotated[int, Field(ge=1)] = MAX_BYTES
    """When the spool is as large, decisions take the default action and outcomes are answered with 503."""

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
