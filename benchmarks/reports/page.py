"""What the HTML pages share: one style, escaped tables, pictures and film strips. Nothing is loaded from elsewhere."""

import base64
import html
import io
import struct
from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

INK, BLUE, GREY, PALE = "#1f2328", "#2f6fb2", "#9aa4ae", "#d5dbe1"
STYLE = f"""
body {{ font: 15px/1.5 system-ui, sans-serif; color: {INK}; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }}
h1 {{ font-size: 1.5rem; }} h2 {{ font-size: 1.2rem; margin-top: 2.5rem; }} h3 {{ font-size: 1rem; }}
table {{ border-collapse: collapse; }} img {{ max-width: 100%; }}
th, td {{ text-align: left; padding: .25rem 1rem .25rem 0; border-bottom: 1px solid {PALE}; font-weight: normal; }}
th {{ color: #59636e; }} tr.main td {{ font-weight: 600; }} td.n {{ font-variant-numeric: tabular-nums; }}
ul.reading li:first-child {{ font-weight: 600; }}
.strip {{ margin: .2rem 0 1rem; }} .strip div {{ display: flex; align-items: center; gap: .7rem; margin: 2px 0; }}
.strip span {{ font-size: .85rem; }} .wrong {{ color: #b42318; }} .near {{ padding-left: 1.2rem; }}
pre {{ background: #f4f6f8; padding: .7rem; overflow-x: auto; font-size: .8rem; white-space: pre-wrap; }}
"""


def page(title: str, body: str, style: str = "") -> str:
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{STYLE}{style}</style></head>\n<body>{body}\n</body></html>\n"
    )


def html_table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]], main: bool = False) -> str:
    top = (
        "<tr>" + "".join(f"<th>{html.escape(cell)}</th>" for cell in head) + "</tr>"
        if any(head)
        else ""
    )
    body = ""
    for i, row in enumerate(rows):
        cells = "".join(f'<td class="n">{html.escape(cell)}</td>' for cell in row)
        body += f"<tr{' class=main' if main and i == 0 else ''}>{cells}</tr>"
    return f"<table>{top}{body}</table>"


def folded(head: str, body: str, opened: bool = False) -> str:
    """`head` is text, `body` is HTML."""
    return f"<details{' open' * opened}><summary>{html.escape(head)}</summary>{body}</details>"


def image(data: bytes, alt: str, more: str = "", form: str = "png") -> str:
    """`more`: further attributes."""
    inside = base64.b64encode(data).decode()
    return f'<img alt="{html.escape(alt)}"{more} src="data:image/{form};base64,{inside}">'


def drawn(figure: Figure, dpi: int = 110) -> bytes:
    with io.BytesIO() as file:
        figure.savefig(
            file, format="png", dpi=dpi, bbox_inches="tight", metadata={"Software": None}
        )
        return file.getvalue()


def picture(figure: Figure, alt: str) -> str:
    return f"<p>{image(drawn(figure), alt)}</p>"


def sharp(figure: Figure, alt: str) -> str:
    """With two pixels of the picture for one of the page, so that a zoom or a fine screen shows more."""
    png = drawn(figure, 200)
    (width,) = struct.unpack(">I", png[16:20])  # of a PNG's header
    return image(png, alt, f' width="{width // 2}"')


def films(queries: list[dict[str, Any]]) -> str:
    """Test clips with their neighbours, as strips.strips makes them."""
    said = "<p>A test clip, then the train clips whose features are nearest.</p>"
    return f'{said}<div class="films">{"".join(map(film, queries))}</div>'


def film(query: dict[str, Any]) -> str:
    lines = [f"<div>{strip(query)}<span>{verdict(query)}</span></div>"]
    for near in query["near"]:
        mark = "" if near["label"] == query["label"] else ' class="wrong"'
        name = f"<span{mark}>{html.escape(near['label'])}, cosine {near['cosine']:.2f}</span>"
        lines.append(f'<div class="near">{strip(near)}{name}</div>')
    return f'<div class="strip">{"".join(lines)}</div>'


def verdict(clip: dict[str, Any]) -> str:
    label = f"<b>{html.escape(clip['label'])}</b>"
    if clip.get("predicted") is None:
        return label
    wrong = f'<span class="wrong">taken for {html.escape(clip["predicted"])}</span>'
    return f"{label}, {'right' if clip['predicted'] == clip['label'] else wrong}"


def strip(clip: dict[str, Any]) -> str:
    return f'<img alt="{html.escape(clip["path"])}" src="data:image/jpeg;base64,{html.escape(clip["jpeg"])}">'
