// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
/*
 * What a session sees, told from its own packets where they pass the devices of
 * both paths: how long the echo of a sequence number takes, or, where the game
 * has none, how long a client's packet lies in this host.
 *
 * A session begins with a packet to its client, so that nobody who is not
 * answered takes a place. Each is counted where its client's flow is received:
 * on one CPU, so that its histograms need no atomic operations.
 */
#include "session.h"

enum {
	/* Sequence numbers of which it is remembered when they left. */
	REMEMBERED = 128,
	/* Linear to 64 units, then 32 steps to each doubling; see passive/kernel.rs. */
	LINEAR = 64,
	STEPS = 32,
	TIME_BUCKETS = 640,
	/* log2 of the unit of time, in nanoseconds. */
	UNIT = 10,
};

/* A field of the game's header: bytes from the end of the UDP header; 0 bytes: there is none. */
volatile const u32 SEQUENCE_OFFSET = 0;
volatile const u32 SEQUENCE_BYTES = 0;
volatile const u32 SEQUENCE_LITTLE = 0;
volatile const u32 ACK_OFFSET = 0;
volatile const u32 ACK_BYTES = 0;
volatile const u32 ACK_LITTLE = 0;
volatile const u32 CLIENT_OFFSET = 0;
volatile const u32 CLIENT_BYTES = 0;
volatile const u32 CLIENT_LITTLE = 0;

/* The devices of the canary path, by family. */
volatile const u32 CANARY_V4 = 0;
volatile const u32 CANARY_V6 = 0;

enum {
	SENT_TWICE,
	TOLD,
	FIRST_UNIT,
};

struct flow {
	struct address client;
	u16 client_port;
	u16 server_port;
};

/* Laid out as in passive/kernel.rs. Counts wrap; whoever reads them takes differences. */
struct session {
	/* When it began: tells it from the next one in its place. */
	u64 began;
	u64 cgroup;
	u8 id[LONGEST_KEY];
	u32 bucket;
	/* Packets to the client, by the path that they left by. */
	u32 by_control;
	u32 by_canary;
	/* Packets of the client. */
	u32 received;
	/* Acknowledgements of what was not remembered. */
	u32 unmatched;
	/* Echoes that may not be the first, or of a number that was sent twice. */
	u32 ambiguous;
	/* Times the game began to count anew. */
	u32 restarted;
	u32 newest_sent;
	u32 last_acked;
	u32 newest_of_client;
	u32 last_time;
	u32 restarted_at;
	/* Unit in which the first client's packet since the last answer came; 0: none waits. */
	u32 waiting_since;
	u8 has_sent;
	u8 has_last;
	u8 spare[2];
	/* Which of the client's last 64 numbers came, the newest in bit 0; 0: none has come. */
	u64 of_client;
	/* Sequence number in the upper half; in the lower the unit of time, SENT_TWICE or TOLD. */
	u64 sent[REMEMBERED];
	/* Round trips, or residence where there is no sequence. */
	u16 times[TIME_BUCKETS];
	/* Differences of consecutive round trips. */
	u16 variations[TIME_BUCKETS];
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1);
	__type(key, struct flow);
	__type(value, struct session);
} SESSIONS SEC(".maps");

/* A session that has seen nothing: too large for the stack. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct session);
} BLANK SEC(".maps");

/* The server's ports. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, u16);
	__type(value, u8);
} PORTS SEC(".maps");

enum count {
	/* Sessions that began. */
	BEGAN,
	/* Those of them that took the place of an older one of the same client. */
	REPLACED,
	/* Packets of clients without a session. */
	UNKNOWN,
	/* Packets too short for the fields or the key. */
	SHORT,
	COUNTS,
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, COUNTS);
	__type(key, u32);
	__type(value, u64);
} COUNTED SEC(".maps");

static INLINE void count(u32 place)
{
	u64 *counter = bpf_map_lookup_elem(&COUNTED, &place);

	if (counter)
		++*counter;
}

static INLINE bool read_field(const struct __sk_buff *skb, const struct datagram *datagram, u32 offset, u32 bytes,
			      u32 little, u32 *to)
{
	u8 raw[8] = {};
	u64 value = 0;

	if (bytes == 0 || bytes > sizeof(raw))
		return false;
	if (bpf_skb_load_bytes_relative(skb, datagram->payload + offset, raw, bytes, BPF_HDR_START_NET))
		return false;
#pragma unroll
	for (u32 i = 0; i < 8; i++)
		if (i < bytes)
			value = little ? value | (u64)raw[i] << 8 * i : value << 8 | raw[i];
	*to = value;
	return true;
}

/* How far a number is ahead of another of so many bytes. */
static INLINE u32 ahead(u32 number, u32 of, u32 bytes)
{
	u32 mask = bytes < 4 ? (1U << 8 * bytes) - 1 : ~0U;

	return (number - of) & mask;
}

static INLINE bool is_newer(u32 ahead, u32 bytes)
{
	u32 half = bytes < 4 ? 1U << (8 * bytes - 1) : 1U << 31;

	return ahead && ahead < half;
}

static INLINE u32 units(void)
{
	u32 now = bpf_ktime_get_ns() >> UNIT;

	return now < FIRST_UNIT ? FIRST_UNIT : now;
}

static INLINE void record(u16 *buckets, u32 time)
{
	u32 place, shift = 1, top = time >> 7;

	if (time < LINEAR) {
		place = time;
	} else {
		/* How often it can be halved and still be 32 or more. */
#pragma unroll
		for (u32 bits = 16; bits; bits >>= 1)
			if (top >> bits) {
				top >>= bits;
				shift += bits;
			}
		shift += !!top;
		place = LINEAR + (shift - 1) * STEPS + (time >> shift) - STEPS;
	}
	if (place >= TIME_BUCKETS)
		place = TIME_BUCKETS - 1;
	buckets[place]++;
}

static INLINE struct session *begin(const struct __sk_buff *skb, const struct flow *flow,
				    const struct session_key *key, bool replaces)
{
	u32 zero = 0;
	struct session *blank = bpf_map_lookup_elem(&BLANK, &zero);

	if (!blank)
		return NULL;
	blank->began = bpf_ktime_get_ns();
	blank->cgroup = bpf_skb_cgroup_id(skb);
	blank->bucket = bucket_of(key);
	__builtin_memcpy(blank->id, key->words, LONGEST_KEY);
	if (bpf_map_update_elem(&SESSIONS, flow, blank, 0))
		return NULL;
	count(BEGAN);
	if (replaces)
		count(REPLACED);
	return bpf_map_lookup_elem(&SESSIONS, flow);
}

/* Whether two ids are the same: those of a payload alone can change within a flow. */
static INLINE bool is_of(const struct session *session, const struct session_key *key)
{
	const u64 *one = (const u64 *)session->id, *other = (const u64 *)key->words;

	return one[0] == other[0] && one[1] == other[1] && one[2] == other[2] && one[3] == other[3];
}

static INLINE void sent(struct session *session, u32 sequence)
{
	u32 bytes = SEQUENCE_BYTES, now = units();
	u32 forward = ahead(sequence, session->newest_sent, bytes);
	u32 backward = ahead(session->newest_sent, sequence, bytes);
	u64 *place = &session->sent[sequence % REMEMBERED];

	if (!session->has_sent || (forward > REMEMBERED && backward > REMEMBERED)) {
		session->restarted += session->has_sent;
		session->restarted_at = now;
		session->has_sent = 1;
		session->has_last = 0;
		session->newest_sent = sequence;
	} else if (forward && forward <= REMEMBERED) {
		session->newest_sent = sequence;
	}
	/* Sent twice: an echo would not say of which. */
	if (*place && *place >> 32 == sequence)
		now = SENT_TWICE;
	*place = (u64)sequence << 32 | now;
}

/*
 * An echo tells a round trip once, also where others have overtaken it: those
 * that were slow must not be missing. One that may not be the first of its number
 * tells none.
 */
static INLINE void acknowledged(struct session *session, u32 ack, bool may_be_first)
{
	u32 bytes = SEQUENCE_BYTES, now = units(), time;
	u64 *place = &session->sent[ack % REMEMBERED];
	u32 left = *place;

	if (!session->has_sent || ahead(session->newest_sent, ack, bytes) >= REMEMBERED || *place >> 32 != ack ||
	    (left >= FIRST_UNIT && left - session->restarted_at > 0x7fffffff)) {
		session->unmatched++;
		return;
	}
	if (left == TOLD)
		return;
	*place = (u64)ack << 32 | TOLD;
	if (left == SENT_TWICE || !may_be_first) {
		session->ambiguous++;
		session->has_last = 0;
		return;
	}
	time = now - left;
	record(session->times, time);
	if (session->has_last && ahead(ack, session->last_acked, bytes) == 1)
		record(session->variations,
		       time > session->last_time ? time - session->last_time : session->last_time - time);
	session->last_acked = ack;
	session->last_time = time;
	session->has_last = 1;
}

/* Whether the client's packet before this one has come: if not, that may have told the same. */
static INLINE bool follows_its_last(struct session *session, const struct __sk_buff *skb,
				    const struct datagram *datagram)
{
	u32 number, by, bytes = CLIENT_BYTES;

	if (bytes == 0)
		return true;
	if (!read_field(skb, datagram, CLIENT_OFFSET, bytes, CLIENT_LITTLE, &number))
		return false;
	by = ahead(number, session->newest_of_client, bytes);
	if (!session->of_client || is_newer(by, bytes)) {
		session->of_client = by < 64 && session->of_client ? session->of_client << by | 1 : 1;
		session->newest_of_client = number;
		return session->of_client & 2;
	}
	by = ahead(session->newest_of_client, number, bytes);
	if (by > 62)
		return false;
	session->of_client |= 1ULL << by;
	return session->of_client >> by & 2;
}

static INLINE void leaves(struct __sk_buff *skb)
{
	struct datagram datagram;
	struct session_key key;
	struct session *session;
	struct flow flow;
	u32 sequence;

	if (!read_datagram(skb, &datagram) || !bpf_map_lookup_elem(&PORTS, &datagram.source_port))
		return;
	if (!takes_part(skb, &datagram))
		return;
	if (!read_key(skb, &datagram, &key)) {
		count(SHORT);
		return;
	}
	flow.client = datagram.destination;
	flow.client_port = datagram.destination_port;
	flow.server_port = datagram.source_port;
	session = bpf_map_lookup_elem(&SESSIONS, &flow);
	if (!session)
		session = begin(skb, &flow, &key, false);
	else if (KEY_FROM == KEY_PAYLOAD && !is_of(session, &key))
		session = begin(skb, &flow, &key, true);
	if (!session)
		return;
	if (skb->ifindex == (datagram.is_ipv6 ? CANARY_V6 : CANARY_V4))
		session->by_canary++;
	else
		session->by_control++;
	if (!SEQUENCE_BYTES) {
		if (session->waiting_since) {
			record(session->times, units() - session->waiting_since);
			session->waiting_since = 0;
		}
	} else if (read_field(skb, &datagram, SEQUENCE_OFFSET, SEQUENCE_BYTES, SEQUENCE_LITTLE, &sequence)) {
		sent(session, sequence);
	} else {
		count(SHORT);
	}
}

static INLINE void arrives(struct __sk_buff *skb)
{
	struct datagram datagram;
	struct session *session;
	struct flow flow;
	bool may_be_first;
	u32 ack;

	if (!read_datagram(skb, &datagram) || !bpf_map_lookup_elem(&PORTS, &datagram.destination_port))
		return;
	flow.client = datagram.source;
	flow.client_port = datagram.source_port;
	flow.server_port = datagram.destination_port;
	session = bpf_map_lookup_elem(&SESSIONS, &flow);
	if (!session) {
		count(UNKNOWN);
		return;
	}
	session->received++;
	if (!SEQUENCE_BYTES) {
		if (!session->waiting_since)
			session->waiting_since = units();
		return;
	}
	may_be_first = follows_its_last(session, skb, &datagram);
	if (read_field(skb, &datagram, ACK_OFFSET, ACK_BYTES, ACK_LITTLE, &ack))
		acknowledged(session, ack, may_be_first);
	else
		count(SHORT);
}

SEC("classifier/egress")
int to_client(struct __sk_buff *skb)
{
	leaves(skb);
	return TCX_NEXT;
}

SEC("classifier/ingress")
int from_client(struct __sk_buff *skb)
{
	arrives(skb);
	return TCX_NEXT;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
