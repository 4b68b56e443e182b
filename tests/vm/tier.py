"""Runs tests in guests: which tests on which kernel, what each guest's words mean, and the sum of it all. See scripts/vm-test."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import tomllib
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path

import guest
from distribution import Compiler, Kernel, Suite, Tools, Unavailable
from image import Image, Modules

HERE = Path(__file__).parent
TREE = HERE.parent.parent
LOGS = TREE / "target" / "vm"
PLAN = tomllib.loads((HERE / "plan.toml").read_text())
# Guests side by side, each with one CPU of this machine and 1.5 GiB of its memory.
MOST_AT_ONCE = 4


class Usage(Exception):
    """A wrong argument or a plan that no longer fits the tests."""


@dataclass
class Program:
    """A test program that was built, and which of its tests to run."""

    name: str
    directory: str
    path: str
    tests: list = field(default_factory=list)

    def listed(self, *options) -> list:
        done = subprocess.run([self.path, "--list", "--format", "terse", *options], capture_output=True, text=True, check=True)
        return [line.removesuffix(": test") for line in done.stdout.splitlines() if line.endswith(": test")]


def programs(file: str) -> list:
    """Those that scripts/test-programs.py lists."""
    lines = subprocess.run([sys.executable, TREE / "scripts/test-programs.py", file], capture_output=True, text=True, check=True)
    return [Program(*line.split("\t")) for line in lines.stdout.splitlines()]


def select(built: list, wanted: list) -> list:
    """The tests that are named, each with its program. Ignored ones only where nothing else is meant."""
    chosen = {}
    for name in wanted:
        target, _, rest = name.partition("::")
        found = [program for program in built if target in (program.name, program.name.split("/")[-1])]
        if len(found) != 1:
            names = ", ".join(sorted(program.name for program in found or built))
            raise Usage(f"{target} is {'more than one' if found else 'no'} test program: {names}")
        program = found[0]
        matching = [test for test in program.listed() if rest in test]
        ignored = set(program.listed("--ignored"))
        tests = [test for test in matching if test not in ignored] or matching
        if not tests:
            raise Usage(f"{name} names no test; {program.name} has: {', '.join(program.listed())}")
        into = chosen.setdefault(program.path, Program(program.name, program.directory, program.path))
        into.tests += [test for test in tests if test not in into.tests]
    return list(chosen.values())


def without(left_out: list, chosen: list):
    """Drops tests of the subset that are not worth their time in a guest."""
    for name in left_out:
        target, _, rest = name.partition("::")
        for program in chosen:
            if program.name.split("/")[-1] == target:
                program.tests = [test for test in program.tests if rest not in test]


def without_skipped(kernel: str, chosen: list) -> list:
    """Leaves out what the plan says this kernel cannot; the (test, reason) of each."""
    skipped = []
    for entry in PLAN.get("skip", []):
        for name in entry["tests"] if kernel in entry["kernels"] else []:
            target, _, test = name.partition("::")
            for program in chosen:
                if target not in (program.name, program.name.split("/")[-1]):
                    continue
                if test not in program.listed():
                    raise Usage(f"plan.toml skips {name}, which is no test")
                if test in program.tests:
                    program.tests.remove(test)
                    skipped.append((name, entry["reason"]))
    chosen[:] = [program for program in chosen if program.tests]
    return skipped


def with_cards(chosen: list) -> bool:
    return not chosen or any(program.name.endswith("/cards") for program in chosen)


def image_of(kernel: Kernel, tools: Tools, chosen: list, script: str) -> Image:
    image = Image()
    image.console()
    wanted = PLAN["guest"]["modules"] + (PLAN["cards"]["modules"] if with_cards(chosen) else [])
    modules, absent = Modules(kernel).in_order(wanted)
    if absent:
        print(f"vm: {kernel.abi} has no {', '.join(absent)}", file=sys.stderr)
    for name, content in modules:
        image.file(f"/vm/modules/{name}.ko", content)
    order = "".join(f"{name}\n" for name, _ in modules)
    # The test NIC, for its own tests and for whoever looks around.
    if kernel.name in PLAN["nic"]["kernels"] and (not chosen or any(program.name.endswith("/nic") for program in chosen)):
        module = Compiler(kernel).build(TREE / PLAN["nic"]["sources"])
        image.file("/vm/modules/testnic.ko", module)
        order += f"testnic {PLAN['nic']['arguments']}\n"
    image.file("/vm/modules/order", order.encode())
    image.file("/init", (HERE / "init").read_bytes(), 0o755)
    image.file("/vm/run", script.encode())
    image.copy(tools.busybox(), "/vm/busybox")
    for name in PLAN["guest"]["programs"]:
        found = shutil.which(name)
        if not found:
            raise Unavailable(f"this machine has no {name}, which the guest's tests use")
        image.program(Path(found).resolve(), f"/usr/bin/{name}")
    image.link("/bin", "usr/bin")
    for pattern in PLAN["guest"]["files"]:
        for file in Path("/").glob(pattern.strip("/")):
            image.copy(file)
    for name, content in {"passwd": "root:x:0:0::/root:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n", "group": "root:x:0:\nnogroup:x:65534:\n"}.items():
        image.file(f"/etc/{name}", content.encode())
    if chosen:
        listed = subprocess.run(["git", "-c", "safe.directory=*", "ls-files", "-z"], cwd=TREE, capture_output=True, text=True, check=True)
        for file in filter(None, listed.stdout.split("\0")):
            if (TREE / file).is_file():
                image.copy(TREE / file)
    for program in chosen:
        image.program(Path(program.path), strip=True)
    # The command itself as users have it, where the tests of the root package run theirs from: what is not optimised is, emulated, too slow for the demo.
    command = TREE / "target/release/pathlab"
    if command.exists() and (not chosen or any(Path(program.directory) == TREE for program in chosen)):
        tested = TREE / "target/debug/pathlab"
        image.program(command, tested, strip=True)
        image.link("/usr/bin/pathlab", str(tested))
    return image


def script_of(chosen: list, seconds: int, stream: bool) -> str:
    lines = [f"stream={'1' if stream else ''}", (HERE / "run").read_text()]
    for program in chosen:
        options = ["--exact", "--include-ignored", *(["--nocapture"] if stream else [])]
        words = ["run", program.name, program.directory, str(seconds), program.path, *options, *program.tests]
        lines.append(shlex.join(words))
    lines.append('sed "s/^/vm: /" "$PATHLAB_SKIPPED"')
    return "\n".join(lines) + "\n"


@dataclass
class Sum:
    passed: int = 0
    failed: int = 0
    skipped: list = field(default_factory=list)
    broken: list = field(default_factory=list)

    def judge(self, kernel: str, chosen: list, run: guest.Run):
        """A program is good when it says so, when its exit code says so, and when it ran every test that it was to run."""
        if not run.ended:
            self.broken.append(f"{kernel}: {run.why_unfinished()}")
        for program in chosen:
            part = re.search(rf"^vm: begin {program.name}$(.*?)^vm: end {program.name} (\d+) ", run.text, re.MULTILINE | re.DOTALL)
            # The last: a test that runs itself again in isolation prints one of its own.
            results = re.findall(r"^test result: .*? (\d+) passed; (\d+) failed", part[1], re.MULTILINE) if part else []
            result = results[-1] if results else None
            passed, failed = map(int, result) if result else (0, len(program.tests))
            self.passed, self.failed = self.passed + passed, self.failed + failed
            if not result or part[2] != "0" or passed != len(program.tests):
                self.broken.append(f"{kernel}: {program.name}: {passed} of {len(program.tests)} tests passed")
        for line in re.findall(r"^vm: skipped: (.*)$", run.text, re.MULTILINE):
            self.broken.append(f"{kernel}: skipped itself in the guest: {line}")


def without_test_nic(kernel: Kernel, chosen: list) -> list:
    """Where the test NIC cannot be built, for want of the kernel's headers, its tests are left out by name and the others run."""
    on_it = [program for program in chosen if program.name.endswith("/nic")]
    if not on_it:
        return []
    try:
        Compiler(kernel).build(TREE / PLAN["nic"]["sources"])
        return []
    except Unavailable as error:
        chosen[:] = [program for program in chosen if program not in on_it]
        return [(f"nic::{test}", error) for program in on_it for test in program.tests]


@dataclass
class Guest:
    """What boots as often as it is asked for: a kernel, its image, the tests in it, and those that it cannot."""

    kernel: Kernel
    tools: Tools
    chosen: list
    skipped: list
    initramfs: Path

    def boot(self, name: str, arguments) -> guest.Run:
        def watch(line):
            # In a pipe too, whoever waits sees that it goes on.
            if named(arguments):
                print(line, end="", flush=True)
            elif line.startswith("test result:"):
                print(f"{name}: {line}", end="", flush=True)

        cards = PLAN["cards"]["qemu"] if with_cards(self.chosen) else []
        cpu = PLAN["kernels"][self.kernel.name]["cpu"]
        return guest.boot(self.tools.qemu(), self.kernel.image, self.initramfs, log_of(name), arguments.seconds, cards, cpu, watch)


def log_of(name: str) -> Path:
    return LOGS / f"{name}.log"


def named(arguments) -> bool:
    """Whether a developer asked for tests or a command by name, and sees all that the guest prints."""
    return bool(arguments.tests or arguments.command) and not arguments.whole


def prepare(kernel: str, wanted: list, arguments, folder: str) -> Guest:
    """A guest that runs tests, or a command."""
    chosen = [] if arguments.command else select(programs(arguments.programs), wanted)
    if arguments.whole:
        without(PLAN["whole_without"], chosen)
    elif not named(arguments):
        without(PLAN["subset_without"], chosen)
        for extra in select(programs(arguments.programs), PLAN["subset_on"].get(kernel, [])):
            same = next((program for program in chosen if program.path == extra.path), None)
            same.tests.extend(extra.tests) if same else chosen.append(extra)
    tools = Tools(Suite(PLAN["tools"]["suite"]))
    stock = Kernel(kernel, Suite(PLAN["kernels"][kernel]["suite"]))
    skipped = [] if named(arguments) else [*without_skipped(kernel, chosen), *without_test_nic(stock, chosen)]
    script = arguments.command + "\n" if arguments.command else script_of(chosen, arguments.seconds, named(arguments))
    initramfs = Path(folder) / f"{kernel}.cpio"
    with open(initramfs, "wb") as file:
        image_of(stock, tools, chosen, script).write(file)
    return Guest(stock, tools, chosen, [f"{kernel}: {test}: {reason}" for test, reason in skipped], initramfs)


def ended(running: dict, pool: ThreadPoolExecutor):
    """Each run as it ends; whoever gives up waiting starts no more of them."""
    try:
        yield from as_completed(running)
    except BaseException:
        pool.shutdown(cancel_futures=True)
        raise


def main(arguments) -> int:
    kernels = [arguments.kernel] if arguments.kernel else list(PLAN["kernels"])
    if unknown := [kernel for kernel in kernels if kernel not in PLAN["kernels"]]:
        raise Usage(f"no kernel {unknown[0]} in tests/vm/plan.toml, which has {', '.join(PLAN['kernels'])}")
    LOGS.mkdir(parents=True, exist_ok=True)
    total = Sum()
    # What two print as it comes nobody can read.
    lanes = 1 if named(arguments) else min(os.cpu_count() or 1, MOST_AT_ONCE)
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(lanes) as pool:
        guests = {}
        for kernel in kernels:
            wanted = arguments.tests or PLAN["whole" if arguments.whole else "subset"]
            try:
                guests[kernel] = prepare(kernel, wanted, arguments, folder)
                total.skipped += guests[kernel].skipped
            except Unavailable as error:
                total.skipped.append(f"{kernel}: {len(wanted)} test programs in a guest: {error}")
        running = {}
        for number in range(1, arguments.times + 1):
            for kernel, prepared in guests.items():
                name = kernel if arguments.times == 1 else f"{kernel}.{number}"
                running[pool.submit(prepared.boot, name, arguments)] = name, prepared
        for done in ended(running, pool):
            (name, prepared), run = running[done], done.result()
            before = len(total.broken)
            total.judge(name, prepared.chosen, run)
            if len(total.broken) > before and not named(arguments):
                print(run.text)
            boot = f"up after {run.boot_seconds():.1f} s of its own time" if run.boot_seconds() else "never up"
            print(f"vm: {name} is {prepared.kernel.abi}: {boot}, {run.seconds:.0f} s of this machine's in all, log in {log_of(name)}", file=sys.stderr)
    for skip in total.skipped:
        print(f"skipped: vm {skip}")
    for broken in total.broken:
        print(f"failed: vm {broken}")
    print(f"vm result: {total.passed} passed; {total.failed} failed; {len(total.skipped)} skipped")
    return 1 if total.broken else 0
