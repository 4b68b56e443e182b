/* SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only */
/*
 * What the programs at both ends of the bench's wire need: UDP over IPv4 without
 * options, looked at and not judged.
 */
#ifndef PATHLAB_BENCH_ENDS_H
#define PATHLAB_BENCH_ENDS_H

#include "../../xdp/bpf/kernel.h"

struct wire_datagram {
	u8 ethernet_and_ip[34];
	be16 source;
	be16 destination;
	be16 length;
	u16 check;
	be32 head; /* first octets of the payload: STAMP's sequence number */
} __attribute__((packed));

/* NULL for anything else. */
static INLINE struct wire_datagram *wire_datagram(struct xdp_md *context)
{
	struct wire_datagram *d = (void *)(long)context->data;

	if ((void *)(d + 1) > (void *)(long)context->data_end)
		return NULL;
	if (d->ethernet_and_ip[12] != 0x08 || d->ethernet_and_ip[13] != 0 || d->ethernet_and_ip[14] != 0x45)
		return NULL;
	return d->ethernet_and_ip[23] == 17 ? d : NULL;
}

#endif
