"""What is measured: this machine's own disk, twinshare, and other tools, each as a way for a guest to get at the tree."""

import json
import os
import shutil
import subprocess
import sys

from bed import HERE, exists, output, wait_for


class Subject:
    """One way to get at the owner's tree.

    `prepare` is done once, at the owner; `attach` is what a fresh guest does, and is part of what W1 measures; `detach`
    leaves nothing of the guest behind.
    """

    name = ""
    title = ""
    # The works that it takes part in.
    works = ("W1", "W2", "W3", "W4", "W5", "W6")
    # Whether the owner's files are on another machine: then they stay in its page cache when the guest's is emptied.
    remote = True

    def __init__(self, bed):
        self.bed = bed

    def missing(self):
        """Why it can't be measured here, if so."""
        return None

    def version(self):
        return ""

    def programs(self):
        """Its programs, which are in the page cache before anything is measured."""
        return []

    def prepare(self):
        """What the owner does once. Returns the seconds of what must be waited for before a guest can start, if any."""
        return None

    def served(self, *parts):
        """What the owner reads in order to serve these parts of the tree."""
        return [self.bed.tree / part for part in parts]

    def before(self):
        """What comes before each fresh guest, unmeasured."""

    def attach(self, *parts):
        """Makes the tree (or at least these parts of it) visible to a fresh guest. Returns where."""
        raise NotImplementedError

    def detach(self):
        self.bed.end_all("guest")

    def finish(self):
        """Ends what `prepare` started."""


class OwnDisk(Subject):
    name = "disk"
    title = "own disk"
    works = ("W1", "W2", "W3", "W4", "W5")
    remote = False

    def attach(self, *parts):
        return self.bed.tree

    def detach(self):
        pass


class Twinshare(Subject):
    """Two nodes as users have them. The owner has never heard of an earlier launch."""

    name = "twinshare"
    title = "twinshare"

    def __init__(self, bed):
        super().__init__(bed)
        self.home = bed.work / "guest"
        self.owner = bed.work / "owner"
        self.kept = bed.work / "owner.kept"

    def programs(self):
        return [self.bed.binaries / "twinshare", self.bed.binaries / "twinshare-mountd"]

    def version(self):
        return output(self.bed.binaries / "twinshare", "--version").split()[-1]

    def _cli(self, side, home, *arguments):
        return self.bed.run(
            side, self.bed.binaries / "twinshare", *arguments, env={**os.environ, "TWINSHARE_HOME": str(home)}
        )

    def prepare(self):
        """Shares the tree once; what the node keeps of that is put back for every guest."""
        self.detach()
        shutil.rmtree(self.owner, ignore_errors=True)
        self.owner.mkdir(parents=True)
        self._cli("owner", self.owner, "up", "--name", "owner")
        self._cli("owner", self.owner, "share", self.bed.tree, "--name", "bench", "--access", "public", "--wait")
        self._cli("owner", self.owner, "down")
        shutil.rmtree(self.kept, ignore_errors=True)
        shutil.copytree(self.owner, self.kept, symlinks=True, ignore=shutil.ignore_patterns("mnt", "runtime"))

    def before(self):
        shutil.rmtree(self.owner, ignore_errors=True)
        shutil.copytree(self.kept, self.owner, symlinks=True)
        self._owner_up()

    def _owner_up(self):
        self._cli("owner", self.owner, "up", "--name", "owner")
        wait_for(self._shared, "the owner's share", pause=0.01)
        self._owner_idle()

    def _shared(self):
        hosts = json.loads(self._cli("owner", self.owner, "ls", "--json"))
        return any(space["name"] == "bench" for host in hosts if host["local"] for space in host["workspaces"])

    def _owner_idle(self):
        """Waits until the owner has looked through its folder and uses no CPU."""
        used, since = None, 0

        def idle():
            nonlocal used, since
            now = self.bed.spent("owner")[1]
            used, since = now, since + 1 if now == used else 0
            return since >= 5

        wait_for(idle, "an idle owner", pause=0.1)

    def attach(self, *parts):
        shutil.rmtree(self.home, ignore_errors=True)
        self.home.mkdir(parents=True)
        self._cli("guest", self.home, "up", "--name", "guest")
        tree = self.home / "mnt/owner/bench"
        wait_for(lambda: exists(tree), "the owner's workspace in the guest's mount")
        return tree

    def detach(self):
        """Takes both nodes down; the guest's folder goes."""
        self._down("guest", self.home)
        self.bed.end_all("guest")
        shutil.rmtree(self.home, ignore_errors=True)
        self._down("owner", self.owner)

    def _down(self, side, home):
        if exists(home / "state"):
            self._cli(side, home, "down")
        self.bed.unmount(home / "mnt")


class TwinshareAgain(Twinshare):
    """The same, after another guest has launched the same before: what the owner has learned from it, it keeps."""

    name = "profile"
    title = "twinshare, launched by another before"
    works = ("W1", "W6")

    def __init__(self, bed, launch):
        super().__init__(bed)
        self.launch = launch
        self.owner = bed.work / "owner-launched"

    def prepare(self):
        self.detach()
        super().before()
        subprocess.run(self.launch(self.attach()), check=True)
        # The guest tells the owner on its own, a while later.
        wait_for(lambda: any((self.owner / "state/profiles").glob("*/*.json")), "the owner's launch profile", pause=0.1)
        self.detach()

    def before(self):
        self._owner_up()


class HttpGet(Subject):
    """What the link gives to one plain HTTP GET, which is what a sequential read is compared with."""

    name = "http"
    title = "one HTTP GET"
    works = ("W3",)
    port = 8080

    def version(self):
        return output("curl", "--version").split()[1]

    def prepare(self):
        start_server(self.bed, self.port, self.bed.tree)

    def get(self, name):
        """Gets a file and throws it away. Returns bytes a second, as curl measured them."""
        rate = self.bed.run(
            "guest", "curl", "--silent", "--fail", "--output", "/dev/null", "--write-out", "%{speed_download}",
            f"http://{self.bed.owner}:{self.port}/{name}",
        )
        return float(rate)

    def finish(self):
        self.bed.end_all("owner")


def start_server(bed, port, folder):
    """Serves a folder at the owner by HTTP."""
    bed.start("owner", sys.executable, HERE / "serve.py", bed.owner, port, folder)
    wait_for(lambda: listens(bed, port), "the HTTP server")


def listens(bed, port):
    """Whether something at the owner accepts connections on a port."""
    return f":{port} " in bed.run("owner", "ss", "--listening", "--tcp", "--numeric", "--no-header")
