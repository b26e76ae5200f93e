"""Renders a template as one self-contained HTML file, and writes it atomically.

    write_page(run / "report.html", Path(__file__).parent / "report.html.j2", content)

The template extends `frame.html.j2`, which contains the style sheet and plotly.js, and may import `parts.html.j2`.
"""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mtorl.pages.words import FILTERS
from mtorl.runtime.files import replacing


def write_page(
    path: Path, template: Path, content: Mapping[str, Any], filters: Mapping[str, Callable[..., str]] | None = None
) -> Path:
    """Fill a template (see `filled`) with `content`, `written` and `plotlyjs`; write the page and return its path."""
    from plotly.offline import get_plotlyjs

    written = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    page = filled(template, {**content, "plotlyjs": get_plotlyjs(), "written": written}, filters)
    with replacing(path) as unfinished:
        unfinished.write_text(page, encoding="utf-8")
    return path


def filled(template: Path, content: Mapping[str, Any], filters: Mapping[str, Callable[..., str]] | None = None) -> str:
    """Fill a template, which may include templates of its own folder and of this one. All values are escaped.

    An attribute of a missing value counts as missing, so that incomplete content still gives a page.
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
