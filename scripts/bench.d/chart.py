"""The chart: for each work a panel of bars, one for each subject, in plain SVG that is readable on light and dark."""

from targets import AGAIN, FAST, OURS

PANELS = [
    ("W1.first", "W1 first run of an environment", "s"),
    ("W1.dropped", "W1 again, page cache dropped", "s"),
    ("W2.cold", "W2 list everything, cold", "s"),
    ("W3.random.cold", "W3 read random bytes, cold", "MB/s"),
    ("W3.text.cold", "W3 read text, cold", "MB/s"),
    ("W4.cold", "W4 search a package, cold", "s"),
    ("W5.cold", "W5 200 random reads, cold", "s"),
]
NAMES = {
    "disk": "own disk", OURS: "twinshare", AGAIN: "… launched before", "http": "HTTP GET", "link": "the link",
    "nydus": "Nydus", "sshfs": "sshfs", "rclone": "rclone", "juicefs": "JuiceFS", "rsync": "rsync first",
}
STYLE = """
  text { font: 12px system-ui, sans-serif; fill: #1f2328 }
  .title { font-weight: 600 }
  .note { fill: #59636e }
  .peer { fill: #afb8c1 } .base { fill: #6e7781 } .ours { fill: #0969da } .target { stroke: #cf222e }
  .spread { stroke: #1f2328 }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 } .note { fill: #9198a1 }
    .peer { fill: #484f58 } .base { fill: #8b949e } .ours { fill: #4493f8 } .target { stroke: #ff7b72 }
    .spread { stroke: #e6edf3 }
  }
"""
WIDTH, LABEL, BAR, ROW, GAP = 720, 130, 440, 18, 20


def draw(results):
    """The chart of the fast link. A bar that would be more than six times twinshare's is cut, with its value beside."""
    from report import quantity

    parts, y = [], 14
    limits = {target.metric: limit for target, _, limit, _ in results.judged()
              if target.subject == OURS and target.link == FAST}
    for metric, title, unit in PANELS:
        rows = [(subject, results.median(FAST, metric, subject)) for subject in NAMES]
        rows = [(subject, value) for subject, value in rows if value is not None]
        if not rows:
            continue
        better = "more is better" if unit == "MB/s" else "less is better"
        parts.append(f'<text class="title" x="0" y="{y}">{title}</text>')
        parts.append(f'<text class="note" x="{WIDTH}" y="{y}" text-anchor="end">{better}</text>')
        y += 8
        ours = results.median(FAST, metric, OURS) or rows[0][1]
        largest = min(max(value for _, value in rows), 6 * ours)
        largest = max(largest, limits.get(metric, 0))
        top = y
        for subject, value in rows:
            low, high = results.spread(FAST, metric, subject)
            kind = "ours" if subject in (OURS, AGAIN) else "base" if subject in ("disk", "http", "link") else "peer"

            def at(what):
                return LABEL + min(what / largest, 1) * BAR

            parts.append(f'<text x="{LABEL - 8}" y="{y + 13}" text-anchor="end">{NAMES[subject]}</text>')
            parts.append(f'<rect class="{kind}" x="{LABEL}" y="{y + 3}" width="{max(at(value) - LABEL, 1):.1f}" height="{ROW - 5}" rx="2"/>')
            if low != high and low < largest:
                parts.append(f'<path class="spread" d="M{at(low):.1f} {y + 9.5}H{at(high):.1f}"/>')
            cut = " →" if value > largest else ""
            parts.append(f'<text x="{at(max(value, min(high, largest))) + 6:.1f}" y="{y + 13}">{quantity(value, unit)}{cut}</text>')
            y += ROW
        if metric in limits:
            x = LABEL + limits[metric] / largest * BAR
            parts.append(f'<path class="target" d="M{x:.1f} {top}V{y}" stroke-dasharray="3 2"/>')
        y += GAP
    parts.append(f'<text class="note" x="0" y="{y}">Medians of one run on 1 Gbit/s, 0.5 ms; thin lines: smallest to largest; dashed: to reach; →: longer than drawn.</text>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y + 10}" width="{WIDTH}" height="{y + 10}" role="img" '
        f'aria-label="How long each work takes with each tool">\n<style>{STYLE}</style>\n' + "\n".join(parts) + "\n</svg>\n"
    )
