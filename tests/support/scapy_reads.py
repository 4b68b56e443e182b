"""Reads `SOURCE-PORT DESTINATION-PORT HEX` lines and prints, as a JSON list, the fields that scapy finds in each datagram."""

import json
import sys

from scapy.contrib.stamp import ErrorEstimate, STAMPTestTLV
from scapy.layers.inet import UDP
from scapy.packet import Packet

BASE = 44


def plain(value):
    if isinstance(value, (ErrorEstimate, STAMPTestTLV)):
        return fields(value)
    if isinstance(value, bytes):
        return value.hex()
    return int(value)


def fields(packet: Packet):
    return {field.name: plain(packet.getfieldval(field.name)) for field in packet.fields_desc if field.name != "tlv_objects"}


found = []
for line in sys.stdin:
    source, destination, octets = line.split()
    octets = bytes.fromhex(octets)
    # scapy 2.5 finds TLVs only below an IP header of its own making: base packet and TLVs go in one by one.
    datagram = UDP(bytes(UDP(sport=int(source), dport=int(destination), len=8 + BASE)) + octets[:BASE])
    packet = fields(datagram.payload)
    packet["name"] = datagram.payload.name
    packet["tlvs"] = []
    rest = octets[BASE:]
    while rest:
        tlv = STAMPTestTLV(rest)
        packet["tlvs"].append(fields(tlv))
        rest = rest[4 + tlv.len :]
    found.append(packet)
json.dump(found, sys.stdout)
