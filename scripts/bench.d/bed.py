"""The bed: the tree, the link with its two namespaces, caches, and processes on the link's two sides."""

import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
PROJECT = HERE.parent.parent

# How long anything may take before the benchmark gives up on it, in seconds.
PATIENCE = 60


class Failure(Exception):
    """Something that the benchmark needs didn't work; the text is for people."""


def output(*command, **options):
    """Runs a program to its end and returns what it printed."""
    done = subprocess.run(
        [str(word) for word in command], stdin=subprocess.DEVNULL, capture_output=True, text=True, **options
    )
    if done.returncode != 0:
        raise Failure(f"{' '.join(map(str, command))}: exit code {done.returncode}\n{done.stderr[-2000:]}")
    return done.stdout


def wait_for(condition, what, patience=PATIENCE, pause=0.002):
    """Polls until the condition holds, and returns what it gave."""
    end = time.monotonic() + patience
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise Failure(f"{what}: not within {patience} s")
        time.sleep(pause)


def say(text):
    """Tells how far it is. Standard output may be for results."""
    print(f"== {text}", file=sys.stderr, flush=True)


def binaries():
    """Where the programs are; builds them unless told where."""
    if given := os.environ.get("TWINSHARE_BIN"):
        return pathlib.Path(given).resolve()
    say("building")
    subprocess.run(["cargo", "build", "--quiet", "--release", "--workspace", "--bins"], cwd=PROJECT, check=True)
    return pathlib.Path(os.environ.get("CARGO_TARGET_DIR", PROJECT / "target")).resolve() / "release"


def exists(path):
    """Whether there is such a path; a mount that doesn't answer (yet) has none."""
    try:
        os.stat(path)
        return True
    except OSError:
        return False


def read_all(*paths):
    """Reads files, and all files below folders, so that they are in the page cache."""
    for path in paths:
        below = [path] if os.path.isfile(path) else (
            os.path.join(folder, name) for folder, _, names in os.walk(path) for name in names
        )
        for file in below:
            if os.path.isfile(file) and not os.path.islink(file):
                with open(file, "rb", buffering=0) as opened:
                    buffer = bytearray(1 << 20)
                    while opened.readinto(buffer):
                        pass


def seconds(act):
    """How long it takes, and what it returns."""
    start = time.perf_counter()
    value = act()
    return time.perf_counter() - start, value


class Bed:
    """Where everything is, and what works on the whole machine."""

    def __init__(self, work, tree, binaries, link, prefix, net):
        self.work = pathlib.Path(work)
        self.tree = pathlib.Path(tree)
        self.binaries = binaries
        self.link = link
        self.prefix = prefix
        self.net = net

    def __enter__(self):
        self._link("down", self.prefix)
        self._link("up", self.link, self.prefix, self.net)
        return self

    def __exit__(self, *_):
        for side in ("guest", "owner"):
            self.end_all(side)
        self._link("down", self.prefix)

    @property
    def owner(self):
        """The owner's address."""
        return f"{self.net}.1"

    def _link(self, *arguments):
        return output(HERE / "link", *arguments)

    def round_trip(self):
        """The measured round trip, in seconds."""
        return float(self._link("rtt", self.prefix, self.net)) / 1000

    def sent(self):
        """What the owner has put on the wire so far, in bytes."""
        return int(self._link("bytes", self.prefix, self.net).split()[0])

    def at(self, side, *command):
        """A command line that runs on one side of the link, and sees this machine's mounts."""
        return ["nsenter", f"--net=/run/netns/{self.prefix}{side}", *map(str, command)]

    def run(self, side, *command, **options):
        """Runs a program on one side to its end."""
        return output(*self.at(side, *command), **options)

    def start(self, side, *command, environment=None):
        """Starts a program on one side; what it says goes to a file."""
        log = open(self.work / f"{side}-{pathlib.Path(command[0]).name}.log", "ab")
        with log:
            return subprocess.Popen(
                self.at(side, *command), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env={**os.environ, **(environment or {})}, start_new_session=True,
            )

    def processes(self, side):
        """The processes on one side. What is measured runs beside the namespaces, so at the guest these are daemons."""
        try:
            wanted = os.stat(f"/run/netns/{self.prefix}{side}").st_ino
        except OSError:
            return []
        found = []
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                try:
                    if os.stat(f"/proc/{entry}/ns/net").st_ino == wanted:
                        found.append(int(entry))
                except OSError:
                    pass
        return found

    def end_all(self, side):
        """Ends what runs on one side: first asked, then killed."""
        for how in (signal.SIGTERM, signal.SIGKILL):
            running = self.processes(side)
            for process in running:
                try:
                    os.kill(process, how)
                except ProcessLookupError:
                    pass
            try:
                wait_for(lambda: not self._reap() and not self.processes(side), "the end of processes", patience=5)
                return
            except Failure:
                continue
        raise Failure(f"processes of the {side} don't end: {self.processes(side)}")

    @staticmethod
    def _reap():
        """Takes note of children that have ended."""
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            pass

    def spent(self, side):
        """Peak resident memory in MiB and CPU time in seconds of what runs on one side."""
        memory = ticks = 0
        for process in self.processes(side):
            with open(f"/proc/{process}/status") as status:
                memory += sum(int(line.split()[1]) for line in status if line.startswith("VmHWM:"))
            with open(f"/proc/{process}/stat") as stat:
                fields = stat.read().rsplit(")", 1)[1].split()
                ticks += int(fields[11]) + int(fields[12])
        return memory / 1024, ticks / os.sysconf("SC_CLK_TCK")

    def drop_caches(self, warm=()):
        """Empties the kernel's caches, then reads what the other machine would still have in its own."""
        os.sync()
        with open("/proc/sys/vm/drop_caches", "w") as caches:
            caches.write("3")
        read_all(*warm)

    def folder(self, name):
        """An empty folder for one purpose."""
        path = self.work / name
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
        return path

    @staticmethod
    def unmount(path):
        """Unmounts if something is mounted there."""
        if os.path.ismount(path):
            subprocess.run(["umount", "--lazy", str(path)], check=False, stderr=subprocess.DEVNULL)
