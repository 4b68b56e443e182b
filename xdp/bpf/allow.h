/* SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only */
/*
 * Whose requests are answered: the prefixes of a trie, or everybody's. Where there
 * is no list the test is a constant, and the verifier drops the lookup.
 */
#ifndef PATHLAB_ALLOW_H
#define PATHLAB_ALLOW_H

#include "parse.h"

/* Set before loading, read-only after. */
const volatile u8 ALLOWLIST = 0;

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, PREFIXES_MAX);
	__type(key, struct prefix);
	__type(value, u32);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} ALLOWED SEC(".maps");

static INLINE bool allowed(const struct datagram *d)
{
	struct prefix source = { .length = 128 };

	if (!ALLOWLIST)
		return true;
	if (d->v4) {
		source.address.word[2] = cpu_to_be32(0xffff);
		source.address.word[3] = d->v4->source;
	} else if (d->v6) {
		source.address = d->v6->source;
	}
	return bpf_map_lookup_elem(&ALLOWED, &source) != NULL;
}

#endif
