// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
/* The reflector's two entries: one for every driver and mode, one for a card that can be asked. */
#include "reflect.h"

SEC("xdp")
int reflector(struct xdp_md *context)
{
	return reflect(context, false);
}

/* Bound to one device, whose driver answers for the card. */
SEC("xdp")
int reflector_bound(struct xdp_md *context)
{
	return reflect(context, true);
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
