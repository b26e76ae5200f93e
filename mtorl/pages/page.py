"""Renders a template as one HTML file without references to other files."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mtorl.pages.words import FILTERS
from mtorl.runtime.files import replacing


def write_page(
    path: Path, template: Path, content: Mapping[str, Any], filters: Mapping[str, Callable[..., str]] | None = None
) -> Path:
    """Render a template as an HTML page, and write the page to `path`."""
    from plotly.offline import get_plotlyjs

    written = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    page = filled(template, {**content, "plotlyjs": get_plotlyjs(), "written": written}, filters)
    with replacing(path) as unfinished:
        unfinished.write_text(page, encoding="utf-8")
    return path


def filled(template: Path, content: Mapping[str, Any], filters: Mapping[str, Callable[..., str]] | None = None) -> str:
    """Render a template with HTML-escaped values.

    A missing value is rendered as empty text, so that incomplete content still gives a page.
    """
    from jinja2 import ChainableUndefined, Environment, FileSystemLoader

    environment = Environment(
        loader=FileSystemLoader([template.parent, Path(__file__).parent]),
        autoescape=True,
        undefined=ChainableUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= FILTERS | dict(filters or {})
    return environment.get_template(template.name).render(content)
