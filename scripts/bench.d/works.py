"""The works W1 to W6: what a guest does with the tree, and how long it takes."""

import mmap
import os
import random
import subprocess
import time

from bed import Failure, read_all, seconds
from subjects import HttpGet

TITLES = {
    "W1": "first run of an environment, from `up` to the end of the import",
    "W2": "list everything",
    "W3": "read large files from one end to the other",
    "W4": "search a package",
    "W5": "200 random reads of 64 KiB in a 1 GiB file",
    "W6": "the guest's daemons during W1",
}

# How often what is warm is measured for each time that it is cold: it's short, so it varies.
WARM = 3
READS, READ = 200, 64 << 10


class Works:
    """The works on one tree."""

    def __init__(self, bed, small):
        self.bed = bed
        self.imports = "many" if small else "pandas, sklearn.ensemble, scipy.stats"
        site = next((bed.tree / "venv/lib").glob("python3*")) / "site-packages/sklearn"
        self.package = site.relative_to(bed.tree)
        self.entries = sum(len(folders) + len(files) for _, folders, files in os.walk(bed.tree)) + 1

    def launch(self, tree):
        """The command line that W1 measures."""
        return [str(tree / "venv/bin/python"), "-c", f"import {self.imports}"]

    def _launch(self, tree):
        done = subprocess.run(self.launch(tree), stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"})
        if done.returncode != 0:
            raise Failure(f"the import failed: {done.stderr[-2000:]}")

    def _fresh(self, subject, *parts):
        """A guest that has nothing yet, beside an owner that has its files in memory."""
        subject.detach()
        subject.before()
        self.bed.drop_caches(subject.served(*parts) if subject.remote else ())
        read_all(*subject.programs())

    def measure(self, work, subject):
        """Yields (metric, value, unit) of one work, once."""
        return {"W1": self._w1, "W2": self._w2, "W3": self._w3, "W4": self._w4, "W5": self._w5}[work](subject)

    def _counted(self, act):
        before = self.bed.sent()
        took, value = seconds(act)
        return took, value, (self.bed.sent() - before) / 1e6

    def _w1(self, subject):
        def first():
            tree = subject.attach("venv")
            self._launch(tree)
            return tree

        self._fresh(subject, "venv")
        took, tree, sent = self._counted(first)
        yield "W1.first", took, "s"
        if subject.remote:
            yield "W1.sent", sent, "MB"
            memory, used = self.bed.spent("guest")
            if memory:
                yield "W6.memory", memory, "MiB"
                yield "W6.cpu", used, "s"
        for _ in range(WARM):
            yield "W1.warm", seconds(lambda: self._launch(tree))[0], "s"
        self.bed.drop_caches()
        yield "W1.dropped", seconds(lambda: self._launch(tree))[0], "s"

    def _w2(self, subject):
        def find():
            listed = subprocess.run(["find", tree, "-printf", "%s %m\\n"], check=True, stdout=subprocess.PIPE).stdout
            count = listed.count(b"\n")
            # Some tools add files of their own; rclone 1.60 lists the files of large folders twice.
            if count < self.entries:
                raise Failure(f"find listed {count} entries, not {self.entries}")

        self._fresh(subject, "code", "venv")
        tree = subject.attach("code", "venv")
        took, _, sent = self._counted(find)
        yield "W2.cold", took, "s"
        if subject.remote:
            yield "W2.sent", sent, "MB"
        for _ in range(WARM):
            yield "W2.warm", seconds(find)[0], "s"

    def _w3(self, subject):
        files = {"random": "model.safetensors", "text": "table.csv"}
        self._fresh(subject, *files.values())
        if isinstance(subject, HttpGet):
            for kind, name in files.items():
                yield f"W3.{kind}.cold", subject.get(name) / 1e6, "MB/s"
            return
        tree = subject.attach(*files.values())
        for kind, name in files.items():
            size = os.stat(self.bed.tree / name).st_size

            def read():
                buffer, length = mmap.mmap(-1, 1 << 20), 0
                with open(tree / name, "rb", buffering=0) as file:
                    while got := file.readinto(buffer):
                        length += got
                if length != size:
                    raise Failure(f"{name} has {length} bytes, not {size}")

            took, _, sent = self._counted(read)
            yield f"W3.{kind}.cold", size / took / 1e6, "MB/s"
            if subject.remote:
                yield f"W3.{kind}.sent", sent, "MB"
            for _ in range(WARM):
                yield f"W3.{kind}.warm", size / seconds(read)[0] / 1e6, "MB/s"

    def _w4(self, subject):
        def grep():
            done = subprocess.run(["grep", "--recursive", "class ", tree / self.package],
                                  stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
            if not done.stdout:
                raise Failure("grep found nothing")

        self._fresh(subject, self.package)
        tree = subject.attach(self.package)
        took, _, sent = self._counted(grep)
        yield "W4.cold", took, "s"
        if subject.remote:
            yield "W4.sent", sent, "MB"
        yield "W4.warm", seconds(grep)[0], "s"

    def _w5(self, subject):
        self._fresh(subject, "model.safetensors")
        tree = subject.attach("model.safetensors")
        size = os.stat(self.bed.tree / "model.safetensors").st_size
        draw = random.Random(5)
        # Where pages begin, as a kernel reads; the same places for all.
        places = [draw.randrange((size - READ) // 4096) * 4096 for _ in range(READS)]

        def reads():
            file = os.open(tree / "model.safetensors", os.O_RDONLY)
            for place in places:
                if len(os.pread(file, READ, place)) != READ:
                    raise Failure("a short read")
            os.close(file)

        took, _, sent = self._counted(reads)
        yield "W5.cold", took, "s"
        if subject.remote:
            yield "W5.sent", sent, "MB"
