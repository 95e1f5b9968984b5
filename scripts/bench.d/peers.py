"""Other tools that give a guest the owner's tree over the network."""

import os
import pathlib
import shutil
import subprocess

from bed import PROJECT, Failure, exists, output, seconds, wait_for
from subjects import Subject, listens, start_server


def which(program, *folders):
    """Where a program is: in one of these folders, else where the system looks."""
    return shutil.which(program, path=os.pathsep.join([*map(str, folders), os.environ["PATH"], "/usr/sbin"]))


class Peer(Subject):
    """A tool of others: found or installed, and mounted at the guest."""

    # Its programs, and the Debian packages that have them.
    needs = ()
    packages = ()
    port = 0

    def __init__(self, bed, tools):
        super().__init__(bed)
        self.tools = pathlib.Path(tools)
        self.mount = bed.work / f"{self.name}.mnt"
        self.cache = bed.work / f"{self.name}.cache"

    def program(self, name):
        return which(name, self.tools / "bin")

    def programs(self):
        return [self.program(name) for name in self.needs]

    def missing(self):
        absent = [name for name in self.needs if not self.program(name)]
        return f"there is no {', '.join(absent)} (--install installs it)" if absent else None

    def install(self):
        if self.packages:
            shell = f'. scripts/lib.sh; need_packages {" ".join(self.packages)}'
            subprocess.run(["bash", "-euc", shell], cwd=PROJECT, check=False)

    def attach(self, *parts):
        self.mount.mkdir(parents=True, exist_ok=True)
        self.cache.mkdir(parents=True, exist_ok=True)
        self.mount_now()
        wait_for(lambda: exists(self.mount / parts[0]), f"the mount of {self.title}")
        return self.mount

    def mount_now(self):
        raise NotImplementedError

    def detach(self):
        self.bed.unmount(self.mount)
        self.bed.end_all("guest")
        shutil.rmtree(self.cache, ignore_errors=True)

    def finish(self):
        self.bed.end_all("owner")


class BySsh(Peer):
    """A tool that speaks SFTP: an ssh daemon at the owner, keys made for it."""

    def ssh_options(self):
        home = self.home()
        return {"port": self.port, "key": home / "guest", "known": home / "known"}

    def home(self):
        return self.bed.work / f"{self.name}.ssh"

    def prepare(self):
        home = self.bed.folder(f"{self.name}.ssh")
        home.chmod(0o700)
        for key in ("host", "guest"):
            output("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", home / key)
        shutil.copy(home / "guest.pub", home / "authorized")
        (home / "known").write_text(f"[{self.bed.owner}]:{self.port} {(home / 'host.pub').read_text()}")
        (home / "config").write_text(
            f"Port {self.port}\nListenAddress {self.bed.owner}\nHostKey {home}/host\nAuthorizedKeysFile {home}/authorized\n"
            "StrictModes no\nUsePAM no\nPermitRootLogin prohibit-password\nSubsystem sftp internal-sftp\n"
            f"PidFile {home}/pid\n"
        )
        # The daemon wants its empty folder, which Debian makes at boot.
        pathlib.Path("/run/sshd").mkdir(exist_ok=True)
        self.bed.start("owner", which("sshd"), "-D", "-f", home / "config")
        wait_for(lambda: listens(self.bed, self.port), "sshd")


class Sshfs(BySsh):
    name, title, port = "sshfs", "sshfs", 2201
    needs = ("sshfs", "ssh", "sshd")
    packages = ("sshfs", "openssh-client", "openssh-server")

    def version(self):
        return output("sshfs", "--version").split()[2]

    def mount_now(self):
        ssh = self.ssh_options()
        options = f"IdentityFile={ssh['key']},UserKnownHostsFile={ssh['known']},kernel_cache,ro"
        self.bed.run(
            "guest", "sshfs", "-p", ssh["port"], "-o", options, f"root@{self.bed.owner}:{self.bed.tree}", self.mount
        )


PEERS = {peer.name: peer for peer in (Sshfs,)}


def chosen(names):
    """The names of peers in what the user wrote."""
    names = {"all": ",".join(PEERS), "none": ""}.get(names, names)
    names = [name for name in names.split(",") if name]
    if unknown := set(names) - set(PEERS):
        raise Failure(f"no peer {', '.join(sorted(unknown))}")
    return names
