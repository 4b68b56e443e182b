// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
/*
 * Passes every packet. A veth end needs some XDP program of its own before its
 * peer can send to it by XDP_TX: it is what gives that end its receive ring.
 */
#include "kernel.h"

SEC("xdp")
int pass(struct xdp_md *context)
{
	(void)context;
	return XDP_PASS;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
