"""Writes the first inputs of a fuzz target, made of the byte vectors and files that the tests use: fuzz-seeds.py TARGET DIRECTORY."""

import base64
import glob
import sys

target, directory = sys.argv[1:]


def vectors():
    """The packets of the vectors: a request, and what it is answered with."""
    for line in open("xdp/tests/vectors/stamp-reflect.txt"):
        if line.strip() and not line.startswith("#"):
            fields = [field.strip() for field in line.split("|")]
            yield bytes.fromhex(fields[1])


def frame(payload, v6):
    """The packet in UDP in IP in Ethernet, its checksums left for the reader to mend or not to look at."""
    udp = bytes([0x9C, 0x40, 0x03, 0x5E]) + (len(payload) + 8).to_bytes(2, "big") + b"\1\1" + payload
    if v6:
        ip = b"\x60\0\0\0" + len(udp).to_bytes(2, "big") + b"\x11\x40" + b"\x20\x01\x0d\xb8" + b"\0" * 11 + b"\x07" + b"\x20\x01\x0d\xb8" + b"\0" * 11 + b"\1"
        return b"\2" * 6 + b"\4" * 6 + b"\x86\xdd" + ip + udp
    ip = b"\x45\0" + (len(udp) + 20).to_bytes(2, "big") + b"\0\0\x40\0\x40\x11\0\0" + bytes([198, 51, 100, 7, 192, 0, 2, 1])
    return b"\2" * 6 + b"\4" * 6 + b"\x08\0" + ip + udp


def files(*patterns):
    return [open(name, "rb").read() for pattern in patterns for name in sorted(glob.glob(pattern))]


LINE = b'{"seq":41,"session":"k7f3","arm":"canary","labels":{"isp":"NTT"},"outcome":"received","stamps":{"A0":{"app":[5,"realtime",0]},"A1":{"app":[6,"realtime",0]},"A4":{"app":[9,"realtime",0]}}}'
HLOG = b"Tag=arm=canary;family=4;isp=NTT,1795255200.000,10.000,33.014,HISTFAAAADx4nAExAM7/HISTEwAAAAkAAAAAAAAAAwAAAAAAAAABAAAADfhHWAA/8AAAAAAAAKf+AQIEDwJ9AoKbBmM="


def netlink(kind, payload):
    """One message in native byte order, with sequence 7."""
    octets = (16 + len(payload)).to_bytes(4, sys.byteorder) + kind.to_bytes(2, sys.byteorder) + b"\0\0" + (7).to_bytes(4, sys.byteorder) + b"\0" * 4 + payload
    return octets + b"\0" * (-len(octets) % 4)


def attribute(kind, payload):
    octets = (4 + len(payload)).to_bytes(2, sys.byteorder) + kind.to_bytes(2, sys.byteorder) + payload
    return octets + b"\0" * (-len(octets) % 4)


DONE = netlink(3, b"\0" * 4)
LINK = b"\0\0\1\0" + (2).to_bytes(4, sys.byteorder) + b"\0" * 8 + attribute(3, b"eth0\0") + attribute(4, (1500).to_bytes(4, sys.byteorder)) + attribute(18, attribute(1, b"veth\0"))
BITS = attribute(3, attribute(1, attribute(2, b"rx-gro\0")) + attribute(1, attribute(2, b"rx-lro\0")))
ELEMENTS = b"\2\0\0\0" + attribute(1, b"t\0") + attribute(3, attribute(1, attribute(1, attribute(1, b"\7\0\0\0")) + attribute(3, b"\0\0\0\1") + attribute(5, b"\0" * 7 + b"\x09")))
RULE = b"\2\0\0\0" + attribute(1, b"t\0") + attribute(2, b"c\0") + attribute(4, attribute(1, attribute(1, b"meta\0") + attribute(2, attribute(1, b"\0\0\0\1") + attribute(2, b"\0\0\0\3"))))
seeds = {
    "rtnetlink": lambda: [netlink(16, LINK) + DONE, netlink(2, b"\0" * 20), DONE],
    "ethtool": lambda: [netlink(20, b"\x13\1\0\0" + attribute(6, (512).to_bytes(4, sys.byteorder))), BITS, attribute(6, (512).to_bytes(4, sys.byteorder))],
    "xdp_diag": lambda: [netlink(20, b"\x2c" + b"\0" * 15 + attribute(1, b"\2" + b"\0" * 7) + attribute(9, b"\1" * 48)) + DONE],
    "nfnetlink": lambda: [netlink(0x0A0C, ELEMENTS) + DONE, netlink(0x0A06, RULE), netlink(2, b"\0" * 20)],
    "codec": lambda: list(vectors()),
    "respond": lambda: [b"\0\xc6\x33\x64\x07" + b"\0" * 12 + b"\x9c\x40" + b"\x40" * 13 + packet for packet in vectors()],
    "extensions": lambda: [bytes([head]) + packet[44:] for packet in vectors() for head in (0, 1, 4, 5)],
    "return_trace": lambda: [b"PLR\1" + bytes([hops, 0, 0, 0]) + b"\0" * (8 + 28 * room) for hops in (0, 3) for room in (1, 16)],
    "frame": lambda: [frame(packet, v6) for packet in vectors() for v6 in (False, True)],
    "keys": lambda: [b'default = "' + b"00" * 32 + b'"\n[ssid]\n7 = "' + b"11" * 32 + b'"\n'],
    "sessions": lambda: [b'{"target":"192.0.2.1:862"}\n', b'{"target":"[2001:db8::1]:862","labels":{"isp":"NTT"}}\n'],
    "samples": lambda: [LINE],
    "hlog": lambda: [HLOG],
    "histogram": lambda: [base64.b64decode(HLOG.rsplit(b",", 1)[1])],
    "scenario": lambda: files("netlab/scenarios/*.toml"),
    "experiment": lambda: files("tests/canary.toml", "netlab/scenarios/*canary*.toml"),
}
for number, seed in enumerate(seeds.get(target, list)()):
    open(f"{directory}/seed-{number}", "wb").write(seed)
