"""A report as one HTML page: pictures as SVG in it, nothing fetched from elsewhere."""

from __future__ import annotations

import json
from html import escape

from tfhf.preflight.report import GIB, text

WIDTH, LABEL, ROW = 900, 330, 22  # of a picture, of the names in it, of a bar, in pixels
COLOURS = {"arguments": "#4e79a7", "temporaries": "#f28e2b", "outputs": "#59a14f"}

_STYLE = """body { font: 15px/1.5 system-ui, sans-serif; max-width: 960px; margin: 2em auto; color: #222 }
pre { background: #f4f4f4; padding: 1em; overflow-x: auto } svg { display: block; max-width: 100%; height: auto }
.bad { color: #b00020 } .good { color: #1b7f3b } text { font: 13px system-ui, sans-serif }"""


def html(report: dict) -> str:
    """The page: memory of a core, bounds of the time, FLOP and bytes by layer, findings, and the whole report."""
    title = f"{report['task']} {report['recipe']}: {report['step']} on {report['tpu']}"
    parts = [f"<h1>{escape(title)}</h1>"]
    for finding in report["findings"]:
        parts.append(f'<p class="bad">{escape(finding["level"])}: {escape(finding["what"])}<br>'
                     f'<code>{escape(finding["place"])}</code></p>')
    for each in report["programs"]:
        verdict = "fits" if each["fits"] else f"refused: {each['error']}"
        parts.append(f'<h2>{escape(each["name"])}</h2>'
                     f'<p class="{"good" if each["fits"] else "bad"}">{escape(verdict)}</p>')
        if "memory" in each:
            parts += ["<h3>Memory of a core, GiB</h3>", _memory(each["memory"]), "<h3>Largest in memory, MiB</h3>",
                      _bars([(f"{entry['count']} x {entry['what']} {entry['name']}", entry["bytes"] / 2**20)
                             for entry in each["memory"]["largest"]])]
        if each["fits"]:
            said = {"all_reduce": "all-reduce", "compiler": "the compiler's estimate, all in turn"}
            bounds = [(said.get(name, name), 1e3 * seconds) for name, seconds in each["seconds"].items() if seconds]
            parts += [f"<h3>Least time of a step, ms: bound by {escape(each['bound'])}, MFU at most "
                      f"{each['mfu_ceiling']:.1%}</h3>", _bars(bounds)]
            for kind, unit in (("flops", "GFLOP"), ("bytes", "GB")):
                parts += [f"<h3>{unit} by layer</h3>",
                          _bars([(entry["name"], entry["amount"] / 1e9) for entry in each[f"{kind}_by_layer"]])]
    return (f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>'
            f"<style>{_STYLE}</style>\n" + "\n".join(parts)
            + f"\n<h2>As text</h2><pre>{escape(text(report))}</pre>"
            + f"<details><summary>Versions, {escape(report['date'])}</summary><pre>"
            + f"{escape(json.dumps(report['versions'], indent=2))}</pre></details></html>\n")


def _memory(memory) -> str:
    """One bar of arguments, temporaries and outputs, and the line where the core's memory ends."""
    parts = [(name, memory[name]) for name in COLOURS if memory.get(name)] or [("temporaries", memory["needed"])]
    scale = (WIDTH - 60) / max(memory["needed"], memory["available"])
    drawn, x = [], 0.0
    for name, size in parts:
        said = name if len(parts) > 1 or name in memory else "needed"
        drawn.append(f'<rect x="{x:.1f}" y="26" width="{size * scale:.1f}" height="34" fill="{COLOURS[name]}">'
                     f"<title>{said} {size / GIB:.2f} GiB</title></rect>")
        x += size * scale
    for number, (name, size) in enumerate(parts):
        drawn.append(f'<rect x="{number * 220}" y="74" width="12" height="12" fill="{COLOURS[name]}"/>'
                     f'<text x="{number * 220 + 18}" y="85">{name if name in memory else "needed"} '
                     f"{size / GIB:.2f}</text>")
    end = memory["available"] * scale
    drawn.append(f'<line x1="{end:.1f}" x2="{end:.1f}" y1="18" y2="66" stroke="#b00020" stroke-width="2"/>'
                 f'<text x="{end:.1f}" y="13" text-anchor="end">the core has {memory["available"] / GIB:.2f}</text>')
    return f'<svg viewBox="0 0 {WIDTH} 95" role="img">{"".join(drawn)}</svg>'


def _bars(rows) -> str:
    """[(name, amount), ...] as horizontal bars with their amounts."""
    most = max((amount for _, amount in rows), default=0) or 1
    drawn = []
    for number, (name, amount) in enumerate(rows):
        y, width = number * ROW, amount / most * (WIDTH - LABEL - 90)
        short = name if len(name) <= 48 else "…" + name[-47:]
        drawn.append(f'<text x="{LABEL - 8}" y="{y + 15}" text-anchor="end">{escape(short)}<title>{escape(name)}'
                     f'</title></text><rect x="{LABEL}" y="{y + 3}" width="{width:.1f}" height="{ROW - 6}" '
                     f'fill="#4e79a7"/><text x="{LABEL + width + 6:.1f}" y="{y + 15}">{amount:,.2f}</text>')
    return f'<svg viewBox="0 0 {WIDTH} {max(len(rows), 1) * ROW}" role="img">{"".join(drawn)}</svg>'
