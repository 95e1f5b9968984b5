"""The scaling curves: what sharing and listing cost as trees grow, and how fast large files are hashed."""

import json
import os
import shutil
import time

from bed import Failure, exists, output, read_all, seconds, wait_for
from subjects import Twinshare

PARTS = ["trees", "wide", "sparse", "hash"]

# What was asked for: (curve, files) -> (limit, unit, whether more is better).
ASKED = {
    ("share: files a second and core", 100_000): (15_000, "1/s", True),
    ("share again: snapshot", 100_000): (1.5, "s", False),
    ("guest: first ls", 1_000_000): (0.5, "s", False),
    ("guest: find, cold", 1_000_000): (12, "s", False),
    ("guest's memory: find", 1_000_000): (400, "MiB", False),
    ("owner's memory: sharing", 1_000_000): (400, "MiB", False),
    ("owner's memory: restarted, serving", 1_000_000): (400, "MiB", False),
}

# A large file is to be hashed at this part of b3sum's rate.
OF_B3SUM = 0.75

# Files that were written to less than two seconds ago are hashed twice.
SETTLED = 2.5

CORES = os.cpu_count()


def make_tree(root, files):
    """Small files, 100 in a folder, 100 folders in a folder."""
    if root.exists():
        return
    made = root.with_name(root.name + ".making")
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir(parents=True)
    for number in range(files):
        if number % 100 == 0:
            folder = made / f"d{number // 10_000:03}/e{number // 100 % 100:02}"
            folder.mkdir(parents=True)
        write(folder / f"file{number % 100:02}.txt", f"file {number} of {files}\n")
    made.rename(root)


def make_wide(root, files):
    """Small files, all in one folder."""
    if root.exists():
        return
    made = root.with_name(root.name + ".making")
    shutil.rmtree(made, ignore_errors=True)
    (made / "wide").mkdir(parents=True)
    for number in range(files):
        write(made / f"wide/file{number:06}.txt", f"{number}\n")
    made.rename(root)


def write(path, text):
    with open(path, "w") as file:
        file.write(text)


def make_random(path, size):
    path.parent.mkdir(parents=True)
    with open(path, "wb") as file:
        for _ in range(size >> 20):
            file.write(os.urandom(1 << 20))


class Pair(Twinshare):
    """An owner that shares one tree after the other, and a fresh guest for each."""

    def fresh_owner(self):
        self.detach()
        shutil.rmtree(self.owner, ignore_errors=True)
        self.owner.mkdir(parents=True)
        self._cli("owner", self.owner, "up", "--name", "owner")

    def share(self, tree, *options):
        self._cli("owner", self.owner, "share", tree, "--name", "bench", "--access", "public", *options)

    def unshare(self):
        self._cli("owner", self.owner, "unshare", "bench")

    def restart_owner(self):
        """Returns how long it takes from the start of `up` until the workspace is listed again."""
        self._down("owner", self.owner)

        def up():
            self._cli("owner", self.owner, "up", "--name", "owner")
            wait_for(self._shared, "the owner's share", pause=0.01)

        return seconds(up)[0]

    def memory(self, side):
        return self.bed.spent(side)[0]


def listed(path):
    """How many names `find` sees below a folder, and how long that takes."""
    took, text = seconds(lambda: output("find", path, "-printf", "%s %m\n"))
    return took, text.count("\n")


def measure(bed, parts, sizes, note, quick):
    pair = Pair(bed)
    try:
        if "trees" in parts:
            for size in sizes:
                tree(pair, size, note)
        if "wide" in parts:
            wide(pair, 1000 if quick else 100_000, note)
        if "sparse" in parts:
            sparse(pair, note)
        if "hash" in parts:
            large(pair, (64 if quick else 4096) << 20, note)
    finally:
        pair.detach()


def settle(newest):
    """Waits until what was made last doesn't count as just written."""
    changed = newest.stat().st_ctime
    wait_for(lambda: time.time() - changed > SETTLED, "old files", pause=0.1)


def tree(pair, files, note):
    root = pair.bed.tree / f"t{files}"
    make_tree(root, files)
    settle(root)
    pair.fresh_owner()
    read_all(root)
    to_list, _ = seconds(lambda: pair.share(root))
    note("share: listed", files, to_list, "s")
    to_hash, _ = seconds(lambda: pair.share(root, "--wait"))
    note("share: hashed", files, to_list + to_hash, "s")
    note("share: files a second and core", files, files / (to_list + to_hash) / CORES, "1/s")
    note("owner's memory: sharing", files, pair.memory("owner"), "MiB")
    pair.unshare()
    note("share again: snapshot", files, seconds(lambda: pair.share(root, "--wait"))[0], "s")
    note("owner restarted: snapshot", files, pair.restart_owner(), "s")
    pair._owner_idle()

    before = pair.bed.sent()
    mounted = pair.attach()
    note("guest: first ls", files, seconds(lambda: os.listdir(mounted))[0], "s")
    cold, found = listed(mounted)
    # The files, their folders, the root and its manifest.
    expected = files + (files + 99) // 100 + (files + 9999) // 10_000 + 2
    if found != expected:
        raise Failure(f"find saw {found} names of {expected}")
    note("guest: find, cold", files, cold, "s")
    note("guest: find, on the wire", files, (pair.bed.sent() - before) / 1e6, "MB")
    note("guest: find, warm", files, listed(mounted)[0], "s")
    note("own disk: find, warm", files, listed(root)[0], "s")
    note("guest's memory: find", files, pair.memory("guest"), "MiB")
    note("owner's memory: restarted, serving", files, pair.memory("owner"), "MiB")
    pair.detach()


def wide(pair, files, note):
    root = pair.bed.tree / "wide"
    make_wide(root, files)
    settle(root)
    pair.fresh_owner()
    read_all(root)
    note("one folder: share, hashed", files, seconds(lambda: pair.share(root, "--wait"))[0], "s")
    mounted = pair.attach()
    took, names = seconds(lambda: output("ls", "-l", mounted / "wide"))
    if names.count("\n") != files + 1:
        raise Failure(f"ls saw {names.count(chr(10)) - 1} names of {files}")
    note("one folder: ls -l, cold", files, took, "s")
    note("one folder: ls -l, warm", files, seconds(lambda: output("ls", "-l", mounted / "wide"))[0], "s")
    (root / "wide/new.txt").write_text("new\n")
    took, _ = seconds(lambda: wait_for(lambda: exists(mounted / "wide/new.txt"), "a new file", pause=0.01))
    (root / "wide/new.txt").unlink()
    note("one folder: a new file is seen", files, took, "s")
    note("one folder: guest's memory", files, pair.memory("guest"), "MiB")
    pair.detach()


def sparse(pair, note):
    root = pair.bed.tree / "sparse"
    root.mkdir(exist_ok=True)
    size = 1 << 40
    with open(root / "disk.img", "wb") as file:
        file.truncate(size)
        file.seek(size // 2)
        file.write(b"in the middle")
    settle(root / "disk.img")
    pair.fresh_owner()
    note("1 TiB sparse: share, hashed", 1, seconds(lambda: pair.share(root, "--wait"))[0], "s")
    mounted = pair.attach()

    def read():
        with open(mounted / "disk.img", "rb") as file:
            for place, wanted in ((size // 2, b"in the middle"), (size - 4, bytes(4)), (0, bytes(1 << 20))):
                file.seek(place)
                if file.read(len(wanted)) != wanted:
                    raise Failure("a sparse file reads wrong")

    note("1 TiB sparse: first reads", 1, seconds(read)[0], "s")
    pair.detach()


def large(pair, size, note):
    path = pair.bed.tree / f"large{size >> 20}/random"
    if not path.exists():
        make_random(path, size)
    settle(path)
    os.sync()
    read_all(path)
    ours, b3sum, found = [], [], shutil.which("b3sum")
    # In turns, since what else the machine does comes and goes.
    for _ in range(3):
        pair.fresh_owner()
        ours.append(seconds(lambda: pair.share(path.parent, "--wait"))[0])
        if found:
            # It maps the file and hashes with all cores.
            b3sum.append(seconds(lambda: output(found, path))[0])
    pair.detach()
    note("large file: share, hashed", 1, size / min(ours) / 1e6, "MB/s")
    if found:
        note("large file: b3sum", 1, size / min(b3sum) / 1e6, "MB/s")


def rows(values):
    """A row for each curve: its name, a cell for each number of files, and what was asked for."""
    sizes = sorted({files for _, files, _, _ in values})
    found = {(curve, files): (value, unit) for curve, files, value, unit in values}
    yield "", [f"{size:,}" for size in sizes], "to reach"
    for curve in dict.fromkeys(curve for curve, *_ in values):
        judged = [verdict(found, key) for key in found if key[0] == curve]
        yield curve, [cell(size, found.get((curve, size))) for size in sizes], "; ".join(filter(None, judged))


def verdict(found, key):
    """What was asked for of a value, and whether it is so."""
    value, _ = found[key]
    b3sum = found.get(("large file: b3sum", 1))
    if key in ASKED:
        limit, unit, more = ASKED[key]
    elif key[0] == "large file: share, hashed" and b3sum:
        limit, unit, more = OF_B3SUM * b3sum[0], "MB/s", True
    else:
        return ""
    met = value >= limit if more else value <= limit
    limit = f"{limit:,.0f}" if limit >= 10 else f"{limit}"
    return f"{'>=' if more else '<='} {limit} {unit}: {'yes' if met else '**no**'}"


def table(values):
    """What was measured, for a terminal."""
    return [f"{curve:<36}" + "".join(f"{text:>22}" for text in cells) + f"  {asked}" for curve, cells, asked in rows(values)]


def markdown(values):
    """What was measured, for the page."""
    lines = ["| " + " | ".join([curve, *cells, asked]) + " |" for curve, cells, asked in rows(values)]
    return [lines[0], "|---" * (lines[0].count("|") - 1) + "|", *lines[1:]]


def read(path):
    """The values that a run has printed."""
    values = [json.loads(line) for line in path.read_text().splitlines()]
    return [(one["curve"], one["files"], one["value"], one["unit"]) for one in values]


def cell(files, found):
    """A value, and, for what grows with the files, what it comes to for one."""
    if found is None:
        return ""
    value, unit = found
    each = {"s": (1e6, "µs"), "MiB": (1 << 20, "B"), "MB": (1e6, "B")}.get(unit)
    text = f"{value:.3f} {unit}" if value < 10 else f"{value:,.0f} {unit}"
    return f"{text} ({value * each[0] / files:.1f} {each[1]})" if each and files > 1 else text
