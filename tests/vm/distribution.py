"""Kernels, QEMU and busybox from the distribution, fetched and unpacked into a cache: nothing is installed on this machine.

Each suite has an apt root of its own, with an empty list of installed packages, so that apt resolves, fetches and verifies as it does
elsewhere. The mirror is the one from which this machine itself is installed.
"""

import hashlib
import os
import shutil
import subprocess
import time
from pathlib import Path

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
LISTS_SECONDS = 24 * 3600
# What no guest of ours has a device for; two thirds of the modules.
LEFT_OUT = ["gpu", "media", "infiniband", "iio", "hwmon", "mfd", "scsi", "staging", "usb", "input", "hid", "net/wireless"]


class Unavailable(Exception):
    """The tools cannot be had here; the message says why, in one sentence."""


def cache() -> Path:
    """Where it is kept, outside every tree, so that fresh clones do not fetch it again."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "pathlab" / "vm"


def mirror() -> str:
    """Address of the archive in this machine's own apt sources."""
    for program in ("apt-get", "dpkg-deb", "tar"):
        if not shutil.which(program):
            raise Unavailable(f"no {program}: kernels are taken from Debian's packages")
    if not Path(KEYRING).exists():
        raise Unavailable(f"no {KEYRING}: install debian-archive-keyring")
    ask = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"]
    for address in subprocess.run(ask, capture_output=True, text=True).stdout.split():
        if address.rstrip("/").endswith("/debian"):
            return address
    raise Unavailable("this machine's apt sources name no Debian archive")


def run(command, what, **options):
    done = subprocess.run(command, capture_output=True, text=True, **options)
    if done.returncode != 0:
        last = (done.stderr.strip() or done.stdout.strip() or "it says nothing").splitlines()[-1]
        raise Unavailable(f"{what}: {last}")
    return done.stdout


class Suite:
    """One suite of the distribution, such as bookworm or trixie-backports."""

    def __init__(self, name: str):
        self.name = name
        self.root = cache() / "apt" / name
        for folder in ("lists/partial", "archives/partial"):
            (self.root / folder).mkdir(parents=True, exist_ok=True)
        (self.root / "status").touch()
        (self.root / "sources.list").write_text(f"deb [signed-by={KEYRING}] {mirror()} {name} main\n")
        (self.root / "apt.conf").write_text(
            f'Dir::State "{self.root}"; Dir::State::lists "{self.root}/lists"; Dir::State::status "{self.root}/status";\n'
            f'Dir::Cache "{self.root}"; Dir::Cache::archives "{self.root}/archives";\n'
            f'Dir::Etc::sourcelist "{self.root}/sources.list"; Dir::Etc::sourceparts "/dev/null";\n'
            'Dir::Etc::preferencesparts "/dev/null"; Acquire::Languages "none"; APT::Sandbox::User "root";\n'
        )
        self.environment = {**os.environ, "APT_CONFIG": str(self.root / "apt.conf"), "DEBIAN_FRONTEND": "noninteractive"}
        self.fresh = self.root / "fresh"

    def update(self):
        """Fetches the lists, once a day. Older ones serve where the archive cannot be reached."""
        if self.fresh.exists() and time.time() - self.fresh.stat().st_mtime < LISTS_SECONDS:
            return
        try:
            run(["apt-get", "update", "-q"], f"apt-get update of {self.name}", env=self.environment)
            # apt-get calls what it could not reach a warning.
            self.show("apt")
            self.fresh.touch()
        except Unavailable:
            if not self.fresh.exists():
                raise

    def show(self, package: str) -> dict:
        """The fields of a package."""
        text = run(["apt-cache", "show", "--no-all-versions", package], f"{package} in {self.name}", env=self.environment)
        fields = [line.split(": ", 1) for line in text.splitlines() if ": " in line and not line.startswith(" ")]
        return dict(fields)

    def fetch(self, packages: list, with_dependencies: bool) -> list:
        """The package files, verified by apt."""
        into = self.root / "fetched"
        shutil.rmtree(into, ignore_errors=True)
        into.mkdir()
        if with_dependencies:
            command = ["apt-get", "install", "-y", "-q", "--download-only", "--no-install-recommends", *packages]
            run(command, f"fetching {' '.join(packages)}", env=self.environment)
            for file in (self.root / "archives").glob("*.deb"):
                file.rename(into / file.name)
        else:
            run(["apt-get", "download", "-q", *packages], f"fetching {' '.join(packages)}", env=self.environment, cwd=into)
        return sorted(into.glob("*.deb"))

    def unpack(self, packages: list, into: Path, with_dependencies=False, without=()):
        """Fetches and unpacks, whole or not at all."""
        partial = into.with_name(into.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        for file in self.fetch(packages, with_dependencies):
            unpacked = subprocess.Popen(["dpkg-deb", "--fsys-tarfile", file], stdout=subprocess.PIPE)
            excluded = [f"--exclude={pattern}" for pattern in without]
            run(["tar", "-x", "--no-same-owner", "-C", partial, *excluded], f"unpacking {file.name}", stdin=unpacked.stdout)
            file.unlink()
        partial.rename(into)


class Kernel:
    """A stock kernel: its image, its modules, and which modules are built in."""

    def __init__(self, name: str, suite: Suite):
        self.name, self.suite = name, suite
        suite.update()
        [self.abi] = [
            word.removeprefix("linux-image-")
            for word in suite.show("linux-image-amd64")["Depends"].replace(",", " ").split()
            if word.startswith("linux-image-")
        ]
        root = cache() / "kernels" / self.abi
        if not root.exists():
            # From 7.2 on the image is a package of packages.
            depends = suite.show(f"linux-image-{self.abi}").get("Depends", "").replace(",", " ").split()
            parts = [word for word in depends if word.endswith(self.abi) and word.startswith("linux-")]
            without = ["*/usr/share/*", "*/sound/*", *(f"*/kernel/drivers/{driver}/*" for driver in LEFT_OUT)]
            suite.unpack([f"linux-image-{self.abi}", *parts], root, without=without)
        images = [root / "boot" / f"vmlinuz-{self.abi}", root / "usr/lib/modules" / self.abi / "vmlinuz"]
        [self.image] = [image for image in images if image.exists()]
        folders = [root / "lib/modules" / self.abi, root / "usr/lib/modules" / self.abi]
        self.modules = next(folder for folder in folders if (folder / "kernel").exists())
        listed = next(folder / "modules.builtin" for folder in folders if (folder / "modules.builtin").exists())
        self.builtin = {Path(line).stem for line in listed.read_text().split()}


class Tools:
    """QEMU and busybox, run from where they were unpacked, with their own libraries."""

    def __init__(self, suite: Suite):
        suite.update()
        version = suite.show("qemu-system-x86")["Version"].replace(":", "-")
        self.root = cache() / "tools" / version
        if not self.root.exists():
            suite.unpack(["qemu-system-x86", "busybox-static"], self.root, with_dependencies=True, without=["*/usr/share/doc/*"])
        self.version = version

    def find(self, name: str) -> Path:
        found = next(self.root.rglob(name), None)
        if not found:
            raise Unavailable(f"the distribution's packages of QEMU have no {name}")
        return found

    def busybox(self) -> Path:
        return next(path for path in (self.root / "usr/bin/busybox", self.root / "bin/busybox") if path.exists())

    def qemu(self) -> list:
        """QEMU as a command."""
        libraries = ":".join(str(self.root / folder / "x86_64-linux-gnu") for folder in ("usr/lib", "lib"))
        firmware = [word for folder in ("qemu", "seabios") for word in ("-L", str(self.root / "usr/share" / folder))]
        return [
            str(self.find("ld-linux-x86-64.so.2").resolve()),
            "--library-path",
            libraries,
            str(self.root / "usr/bin/qemu-system-x86_64"),
            *firmware,
        ]


class Compiler:
    """What builds a module for a stock kernel: its headers, kbuild and the compiler that built it, in a root of their own."""

    PACKAGES = ["base-files", "coreutils", "dash", "findutils", "grep", "make", "mawk", "sed"]

    def __init__(self, kernel: Kernel):
        self.kernel = kernel
        self.root = cache() / "headers" / kernel.abi
        if not self.root.exists():
            packages = [f"linux-headers-{kernel.abi}", *self.PACKAGES]
            without = [f"*/usr/share/{folder}/*" for folder in ("doc", "man", "locale")]
            kernel.suite.unpack(packages, self.root, with_dependencies=True, without=without)
            # Which awk it is, a script of the package would say.
            (self.root / "usr/bin/awk").symlink_to("mawk")

    def build(self, sources: Path) -> bytes:
        """The module of a folder with a Kbuild; built once for each state of its sources."""
        files = {file.name: file.read_bytes() for file in sorted(sources.iterdir()) if file.is_file()}
        digest = hashlib.sha256(repr(files).encode()).hexdigest()[:16]
        built = cache() / "modules" / f"{sources.name}-{self.kernel.abi}-{digest}.ko"
        if not built.exists():
            work = self.root / "build"
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir()
            for name, content in files.items():
                (work / name).write_bytes(content)
            headers = f"/usr/src/linux-headers-{self.kernel.abi}"
            # Its type information would need pahole and the kernel's own; nothing reads it.
            make = ["make", "-s", "-C", headers, "M=/build", "modules", "CONFIG_DEBUG_INFO_BTF_MODULES=", "KCFLAGS=-Werror"]
            command = ["unshare", "--map-root-user", "--root", self.root, "env", "-i", "PATH=/usr/bin:/usr/sbin", *make]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode != 0:
                raise RuntimeError(f"{sources} does not build for {self.kernel.abi}:\n{done.stdout}{done.stderr}")
            built.parent.mkdir(exist_ok=True)
            [module] = work.glob("*.ko")
            strip = ["unshare", "--map-root-user", "--root", self.root, "/usr/bin/strip", "--strip-debug", f"/build/{module.name}"]
            run(strip, f"stripping {module.name}")
            shutil.copy(module, built)
        return built.read_bytes()
