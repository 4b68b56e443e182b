"""Makes a guest's initramfs: the kernel's modules, programs with their libraries, the test programs, and what they read.

Written as cpio by hand, so that neither root nor a loop device is needed, and as a few archives one after the other, which the kernel
unpacks in turn.
"""

import lzma
import os
import re
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path


class Image:
    """Files of a guest by their path."""

    def __init__(self):
        self.entries = {}

    def folder(self, path: str):
        path = path.strip("/")
        if path and path not in self.entries:
            self.folder(os.path.dirname(path))
            self.entries[path] = (stat.S_IFDIR | 0o755, b"")

    def file(self, path: str, content: bytes, mode=0o644):
        path = path.strip("/")
        self.folder(os.path.dirname(path))
        self.entries[path] = (stat.S_IFREG | mode, content)

    def link(self, path: str, target: str):
        path = path.strip("/")
        self.folder(os.path.dirname(path))
        self.entries[path] = (stat.S_IFLNK | 0o777, target.encode())

    def console(self):
        """The one device that must be there before /dev is mounted."""
        self.folder("dev")
        self.entries["dev/console"] = (stat.S_IFCHR | 0o600, b"")

    def copy(self, source: Path, path=None, strip=False):
        """A file of this machine, to the same place unless said."""
        content = stripped(source) if strip else Path(source).read_bytes()
        self.file(str(path or source), content, 0o755 if os.access(source, os.X_OK) else 0o644)

    def program(self, source: Path, path=None, strip=False):
        """A program with the libraries that it needs."""
        self.copy(source, path, strip)
        done = subprocess.run(["ldd", source], capture_output=True, text=True)
        for library in re.findall(r"(/\S+) \(0x", done.stdout):
            if library.strip("/") not in self.entries:
                self.copy(Path(library))

    def write(self, file):
        """In cpio's "newc" form: a header of hexadecimal fields, the name, the content, each filled up to four octets."""
        number = 0
        for path, (mode, content) in [*self.entries.items(), ("TRAILER!!!", (0, b""))]:
            number += 1
            name = path.encode() + b"\0"
            device = (5, 1) if stat.S_ISCHR(mode) else (0, 0)
            fields = [number, mode, 0, 0, 1, 0, len(content), 0, 0, *device, len(name), 0]
            header = b"070701" + b"".join(b"%08x" % field for field in fields)
            file.write(header + name + b"\0" * (-(len(header) + len(name)) % 4))
            file.write(content + b"\0" * (-len(content) % 4))


def stripped(program: Path) -> bytes:
    """Without symbols, which are four fifths of a test program."""
    if not shutil.which("strip"):
        return Path(program).read_bytes()
    with tempfile.NamedTemporaryFile() as place:
        subprocess.run(["strip", "-o", place.name, program], check=True)
        return Path(place.name).read_bytes()


class Modules:
    """Which modules a module needs, as the modules themselves say it; the packages have no modules.dep."""

    def __init__(self, kernel):
        self.builtin = {name.replace("-", "_") for name in kernel.builtin}
        found = [*kernel.modules.rglob("*.ko"), *kernel.modules.rglob("*.ko.xz")]
        self.files = {file.name.split(".ko")[0].replace("-", "_"): file for file in found}

    def content(self, name: str) -> bytes:
        content = self.files[name].read_bytes()
        return lzma.decompress(content) if self.files[name].suffix == ".xz" else content

    def in_order(self, wanted: list) -> tuple:
        """(name, content) of everything wanted and needed, each after what it needs; and what this kernel does not have."""
        order, absent = {}, []

        def visit(name):
            name = name.replace("-", "_")
            if name in order or name in self.builtin:
                return
            if name not in self.files:
                absent.append(name)
                return
            content = self.content(name)
            depends = re.search(rb"\0depends=([^\0]*)\0", content)
            for needed in filter(None, depends[1].decode().split(",")):
                visit(needed)
            order[name] = content

        for name in wanted:
            visit(name)
        return list(order.items()), absent
