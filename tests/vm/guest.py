"""Boots a guest, reads its console, and judges it by what it prints."""

import re
import subprocess
import threading
import time
from pathlib import Path

# Software emulation by name: /dev/kvm may open and yet boot no stock kernel, and then QEMU hangs instead of falling back. A guest's time is counted in its
# instructions, one a nanosecond, and leaps to the next timer where both CPUs sleep: what else this machine does makes a guest slow, and nothing in it late.
# The two CPUs take turns for that, on one of this machine's.
MACHINE = ["-machine", "q35", "-accel", "tcg,thread=single", "-icount", "shift=0,sleep=off", "-nodefaults", "-nographic", "-serial", "stdio", "-no-reboot"]
COMMAND_LINE = "console=ttyS0 panic=-1 quiet loglevel=1 mitigations=off nokaslr audit=0 cryptomgr.notests tsc=reliable no_timer_check"
DONE = "vm: done "


class Run:
    """What a guest did: everything that it printed, and whether it came to its end."""

    def __init__(self, text: str, seconds: float, timed_out: bool):
        self.text = text
        self.seconds = seconds
        self.timed_out = timed_out
        self.ended = bool(re.search(f"^{DONE}", text, re.MULTILINE))

    def number(self, pattern: str):
        found = re.search(pattern, self.text)
        return float(found[1]) if found else None

    def boot_seconds(self):
        """By the guest's own clock, until all modules were there."""
        return self.number(r"vm: up after ([0-9.]+) s")

    def why_unfinished(self) -> str:
        if self.timed_out:
            return f"it had not ended after {self.seconds:.0f} s"
        if "Kernel panic" in self.text:
            return "its kernel panicked"
        return "it stopped before its end"


def boot(qemu: list, kernel: Path, initramfs: Path, log: Path, seconds: float, devices=(), cpu="max", watch=None) -> Run:
    """Runs a guest of two CPUs until it turns itself off, or for so many seconds. `watch` gets each line as it comes."""
    command = [
        *qemu,
        *MACHINE,
        *("-cpu", cpu, "-smp", "2", "-m", "1536"),
        *("-kernel", kernel, "-initrd", initramfs, "-append", COMMAND_LINE),
        *devices,
    ]
    begun = time.monotonic()
    lines, timed_out = [], threading.Event()
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as guest:

        def end():
            timed_out.set()
            guest.kill()

        alarm = threading.Timer(seconds, end)
        alarm.start()
        with open(log, "w", buffering=1) as file:
            for raw in guest.stdout:
                # The firmware's escapes and the console's carriage returns are no text of the guest.
                line = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\x1bc|\r", "", raw.decode(errors="replace"))
                lines.append(line)
                file.write(line)
                if watch:
                    watch(line)
        alarm.cancel()
    return Run("".join(lines), time.monotonic() - begun, timed_out.is_set())
