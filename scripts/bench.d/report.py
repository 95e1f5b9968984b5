"""Turns results into docs/PERFORMANCE.md and its chart."""

import collections
import json
import statistics

import chart
import scale
from bed import PROJECT
from peers import PEERS
from subjects import HttpGet, OwnDisk, Twinshare, TwinshareAgain
from targets import AGAIN, FAST, OURS, SLOW, TARGETS

PAGE = PROJECT / "docs/PERFORMANCE.md"
CHART = PROJECT / "docs/performance.svg"
RESULTS = PROJECT / "target/bench/results"
BY_HAND = "<!-- From here on by hand: scripts/bench keeps it. -->"

# The order of the columns; what isn't in the results has none.
SUBJECTS = {
    **{one.name: one.title for one in (OwnDisk, Twinshare, TwinshareAgain, HttpGet)},
    "link": "the link",
    **{name: peer.title for name, peer in PEERS.items()},
}
METRICS = {
    "W1.prepare": "W1: before a guest can start, at the owner, once",
    "W1.first": "W1 first run, from `up` to the end of the import, fresh guest",
    "W1.sent": "W1 bytes on the wire",
    "W1.warm": "W1 again, warm",
    "W1.dropped": "W1 again, page cache dropped",
    "W2.cold": "W2 `find -printf '%s %m\\n'`, cold",
    "W2.sent": "W2 bytes on the wire",
    "W2.warm": "W2 warm",
    "W3.random.cold": "W3 sequential read of random bytes, cold",
    "W3.text.cold": "W3 sequential read of text, cold",
    "W3.random.warm": "W3 random bytes, warm",
    "W3.text.warm": "W3 text, warm",
    "W3.random.sent": "W3 random: bytes on the wire",
    "W3.text.sent": "W3 text: bytes on the wire",
    "W4.cold": "W4 `grep -r` over a package, cold",
    "W4.sent": "W4 bytes on the wire",
    "W4.warm": "W4 warm",
    "W5.cold": "W5 200 random 64 KiB reads, cold",
    "W5.sent": "W5 bytes on the wire",
    "W6.memory": "W6 the guest's daemons in W1: peak memory",
    "W6.cpu": "W6 the guest's daemons in W1: CPU",
}


class Results:
    """All values of the runs that the page is about: of each work and link, those of its newest run."""

    def __init__(self, files):
        self.values = collections.defaultdict(list)
        self.units = {}
        self.runs = []
        self.notes = []
        taken = set()
        for file in sorted(files, key=lambda file: file.name, reverse=True):
            lines = [json.loads(line) for line in file.read_text().splitlines()]
            here = {(line["link"], line["work"]) for line in lines if "metric" in line} - taken
            if not here:
                continue
            taken |= here
            about = next(line for line in lines if "machine" in line)
            self.runs.append({**about, "works": sorted({f"{work} ({link})" for link, work in here})})
            self.notes += [line["note"] for line in lines if "note" in line and line["note"] not in self.notes]
            for line in lines:
                if (line.get("link"), line.get("work")) in here:
                    self.values[line["link"], line["metric"], line["subject"]].append(line["value"])
                    self.units[line["metric"]] = line["unit"]

    def median(self, link, metric, subject):
        found = self.values.get((link, metric, subject))
        return statistics.median(found) if found else None

    def spread(self, link, metric, subject):
        found = self.values[link, metric, subject]
        return min(found), max(found)

    def subjects(self, link):
        there = {subject for of, _, subject in self.values if of == link}
        return [subject for subject in SUBJECTS if subject in there]

    def judged(self):
        """For every target that was measured: (target, value, limit, met)."""
        for target in TARGETS:
            value = self.median(target.link, target.metric, target.subject)
            base = 1 if target.reference is None else self.median(target.link, *reversed(target.reference))
            if value is None or base is None:
                continue
            limit = target.factor * base
            yield target, value, limit, value >= limit if target.at_least else value <= limit

    def best_peer(self, link, metric):
        """The peer with the best median, and that median."""
        found = [(self.median(link, metric, peer), peer) for peer in PEERS]
        found = [one for one in found if one[0] is not None]
        if not found:
            return None
        return (max if self.units[metric] == "MB/s" else min)(found)


def number(value):
    """Three digits that matter."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"


def quantity(value, unit):
    if unit == "MB/s" and value >= 1000:
        return f"{number(value / 1000)} GB/s"
    return f"{number(value)} {unit}"


def failures(results):
    """What isn't reached, for the top of the page."""
    judged = list(results.judged())
    missed = [one for one in judged if not one[3]]
    if not judged:
        return ["Nothing was measured yet that has a target."]
    if not missed:
        return [f"All {len(judged)} targets that were measured are met."]
    lines = [f"**{len(missed)} of {len(judged)} targets that were measured are not met:**", ""]
    for target, value, limit, _ in missed:
        unit = results.units[target.metric]
        lines.append(
            f"- {METRICS[target.metric]}{' (100 Mbit/s)' if target.link == SLOW else ''}, {SUBJECTS[target.subject]}: "
            f"{quantity(value, unit)}, to reach {'at least' if target.at_least else 'at most'} {quantity(limit, unit)}"
        )
    return lines


def table(results, link):
    """Medians of all subjects, ratios and targets."""
    subjects = results.subjects(link)
    judged = collections.defaultdict(list)
    for target, _, limit, met in results.judged():
        if target.link == link:
            judged[target.metric].append((target, limit, met))
    head = ["work", *(SUBJECTS[one] for one in subjects), "to own disk", "to the best peer", "to reach", "met"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for metric, title in METRICS.items():
        if not any(results.median(link, metric, subject) is not None for subject in subjects):
            continue
        unit = results.units[metric]
        cells = [title]
        for subject in subjects:
            median = results.median(link, metric, subject)
            if median is None:
                cells.append("")
                continue
            low, high = results.spread(link, metric, subject)
            text = quantity(median, unit)
            if low != high:
                scale = 1000 if text.endswith("GB/s") else 1
                text += f" <sub>{number(low / scale)}–{number(high / scale)}</sub>"
            cells.append(text)
        ours, disk = results.median(link, metric, OURS), results.median(link, metric, "disk")
        cells.append(f"{ours / disk:.2f}x" if ours is not None and disk else "")
        peer = results.best_peer(link, metric)
        cells.append(f"{ours / peer[0]:.2f}x ({SUBJECTS[peer[1]]})" if ours is not None and peer and peer[0] else "")
        cells.append("<br>".join(
            f"{'profile: ' if target.subject == AGAIN else ''}{'>=' if target.at_least else '<='} "
            f"{quantity(limit, unit)} ({target.asked})"
            for target, limit, _ in judged[metric]
        ))
        cells.append("<br>".join("yes" if met else "**no**" for _, _, met in judged[metric]))
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def generated(results):
    lines = [
        "# Performance",
        "",
        "Written by `scripts/bench`; edit only below the line that says so.",
        "",
        *failures(results),
    ]
    for link, title in ((FAST, "1 Gbit/s, 0.5 ms round trip"), (SLOW, "100 Mbit/s, 5 ms round trip")):
        if not results.subjects(link):
            continue
        lines += ["", f"## {title}", ""]
        if link == FAST:
            lines += [f"![How long each work takes with each tool]({CHART.name})", ""]
        lines += table(results, link)
    if curves := sorted(RESULTS.glob("*.scale")):
        lines += [
            "", "## Scale", "",
            "What a workspace costs as it grows, by the number of its files, 100 in a folder, of 20 bytes each; in parentheses what that comes to for one file. "
            "Times are for warm page caches on both sides and a fresh guest; memory is the daemon's peak.", "",
            *scale.markdown(scale.read(curves[-1])),
        ]
    lines += [
        "",
        "## How it was measured",
        "",
        "Two network namespaces on one machine, joined by a link that is shaped to the rate and delay above; both sides share its cores. "
        "Given are medians, with the smallest and the largest value; all tools take turns within one run.",
        "",
        "- Cold: a guest that has nothing (its daemon is started in W1's measured time, before it in the others), and the machine's page cache is dropped. "
        "What the owner serves, and the tools' own programs, are read again after the drop: they lie in memory at a machine that isn't the guest. "
        "The interpreter's own library is the guest's, and cold. Own disk, cold: after the drop.",
        "- *launched by another before*: another guest has launched the same before; this one is fresh.",
        "- Bytes on the wire are those from the owner to the guest, with all headers, as the link counts them.",
        "- A target is a ratio in this run: each absolute value that was asked for stands for its ratio to the own disk, the link or the peer "
        "in the measurement that it was set by (in parentheses). Byte counts and memory are absolute, and so are the times on the slow link.",
        "- twinshare speaks TLS 1.3, as users have it; sshfs, rclone (SFTP) and JuiceFS (SFTP) are encrypted by SSH; Nydus, rsync and HTTP GET aren't encrypted.",
        "",
    ]
    for run in results.runs:
        versions = ", ".join(f"{name} {version}" for name, version in run["versions"].items() if version)
        lines.append(f"- {run['date']}, {run['repeats']} runs of {', '.join(run['works'])}: {run['machine']}. {versions}.")
    lines += [f"- {note}" for note in results.notes]
    return lines


def write(results):
    """Writes the page and the chart; what was written by hand stays."""
    by_hand = ""
    if PAGE.exists() and BY_HAND in (page := PAGE.read_text()):
        by_hand = page.split(BY_HAND, 1)[1]
    PAGE.write_text("\n".join(generated(results)) + f"\n\n{BY_HAND}{by_hand or chr(10)}")
    CHART.write_text(chart.draw(results))


def text(results):
    """The table for a terminal."""
    lines = []
    for link in (FAST, SLOW):
        subjects = results.subjects(link)
        if not subjects:
            continue
        lines.append(f"{link:<18}" + "".join(f"{subject:>20}" for subject in subjects))
        for metric in METRICS:
            values = [(results.median(link, metric, subject), subject) for subject in subjects]
            if any(value is not None for value, _ in values):
                unit = results.units[metric]
                lines.append(f"{metric:<18}" + "".join(
                    f"{quantity(value, unit) if value is not None else '-':>20}" for value, _ in values
                ))
    lines += ["", *failures(results)]
    return "\n".join(lines)
