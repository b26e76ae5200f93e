"""Renders a template as one HTML file that needs no other files, and writes it atomically.

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
    """Render a template as an HTML page, write the page to `path`, and return `path`.

    The template gets the values in `content`, the current time as `written`, and the code of plotly.js as `plotlyjs`.
    """
    from plotly.offline import get_plotlyjs

    written = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    page = filled(template, {**content, "plotlyjs": get_plotlyjs(), "written": written}, filters)
    with replacing(path) as unfinished:
        unfinished.write_text(page, encoding="utf-8")
    return path


def filled(template: Path, content: Mapping[str, Any], filters: Mapping[str, Callable[..., str]] | None = None) -> str:
    """Render a template, and return the text of the page. All values are escaped for HTML.

    The template may include the templates in its own folder and in the folder of this module. A missing value, or an
    attribute of one, is rendered as empty text, so that incomplete content still gives a page.
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
