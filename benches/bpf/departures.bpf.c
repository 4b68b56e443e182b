// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
/* The wrong-arm proof, and a program that does nothing. */
#include "../../canary/bpf/departures.bpf.c"

SEC("classifier/nothing")
int nothing(struct __sk_buff *skb)
{
	(void)skb;
	return TCX_NEXT;
}
