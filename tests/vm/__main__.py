"""The command line of scripts/vm-test."""

import argparse
import sys

import tier

parser = argparse.ArgumentParser(prog="vm-test", description="Tests in guests with stock kernels, under QEMU's software emulation.")
parser.add_argument("kernel", nargs="?", help=f"one of {', '.join(tier.PLAN['kernels'])}; all of them if not said")
parser.add_argument("tests", nargs="*", help="PROGRAM or PROGRAM::NAME; the subset of tests/vm/plan.toml if not said")
parser.add_argument("--whole", action="store_true", help="the whole privileged suites instead of the subset; with names, what a kernel cannot is left out of them")
parser.add_argument("--times", type=int, default=1, metavar="N", help="so many boots of each kernel")
parser.add_argument("--command", metavar="COMMAND", help="a shell command in the guest instead of tests")
parser.add_argument("--seconds", type=int, default=600, help="the longest time that a guest may take (default %(default)s)")
parser.add_argument("--programs", help=argparse.SUPPRESS)
try:
    sys.exit(tier.main(parser.parse_intermixed_args()))
except tier.Usage as error:
    print(f"vm-test: {error}", file=sys.stderr)
    sys.exit(2)
except KeyboardInterrupt:
    sys.exit(130)
