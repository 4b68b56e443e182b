/* SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only */
/*
 * What some cards do that an XDP program must know of; xdp/src/nic/rules.rs says
 * which. Both are off unless the plan for the port turns them on.
 *
 * LEAVE_PTP: the card keeps the stamp of an event message of PTP in a register that
 * the socket path alone empties (i40e, 82599, X540). A program that consumed such a
 * packet would leave the register taken for a second or more, and ptp4l without its
 * stamps. Those cards look at UDP port 319; Ethernet type 0x88f7 is never ours.
 *
 * READ_TAIL: the card's stamp follows every frame (X550, E610), and the driver takes
 * it off after XDP. It must not be echoed, and may be read. A frame that is passed
 * keeps it, for the driver to find.
 */
#ifndef PATHLAB_QUIRKS_H
#define PATHLAB_QUIRKS_H

#include "abi.h"
#include "parse.h"

/* Set before loading, read-only after. */
const volatile u8 LEAVE_PTP = 0;
const volatile u8 READ_TAIL = 0;

#define PTP_EVENT_PORT 319	/* IEEE 1588, annex D */
#define TAIL 8

static INLINE bool must_stay_with_the_stack(const struct datagram *d)
{
	return d->udp->destination == cpu_to_be16(PTP_EVENT_PORT) && LEAVE_PTP;
}

/* Whether what follows the datagram is the card's stamp and nothing else. */
static INLINE bool has_tail(struct xdp_md *context, const struct datagram *d)
{
	u64 before;

	if (!d->trailer || !READ_TAIL)
		return false;
	before = (void *)d->udp - (void *)(long)context->data;
	return bpf_xdp_get_buff_len(context) == before + be16_to_cpu(d->udp->length) + TAIL;
}

/*
 * Reads the stamp behind the frame and cuts it off; pointers into the packet are
 * void after that. The card counts cycles: the upper word in units of 10^9
 * (ixgbe_ptp_convert_to_hwtstamp). 0, and the packet as it was, where that fails.
 */
static INLINE u64 take_tail(struct xdp_md *context)
{
	u64 words, length = bpf_xdp_get_buff_len(context);

	if (length < TAIL || bpf_xdp_load_bytes(context, length - TAIL, &words, TAIL))
		return 0;
	if (bpf_xdp_adjust_tail(context, -TAIL))
		return 0;
	words = le64_to_cpu(words);
	return (words >> 32) * 1000000000ULL + (u32)words;
}

#endif
