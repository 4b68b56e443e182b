// SPDX-License-Identifier: GPL-2.0
/* From one device to the other: what leaves is stamped, is under way for the wire's delay, and arrives in a receive ring. */
#include <linux/if_vlan.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/jhash.h>
#include <linux/udp.h>

#include "testnic.h"

/* A transmit stamp that the driver does not have yet. */
struct testnic_slot {
	struct list_head list;
	struct sk_buff *skb;
	ktime_t due;
	u64 stamp;
	bool lost;
};

void *testnic_data(struct page *page)
{
	return page_address(page) + XDP_PACKET_HEADROOM;
}

static u32 ip_header(const void *frame, u32 length, u8 *protocol)
{
	const struct ethhdr *ethernet = frame;
	const struct iphdr *v4 = frame + ETH_HLEN;
	const struct ipv6hdr *v6 = frame + ETH_HLEN;

	if (ethernet->h_proto == htons(ETH_P_IP) && length >= ETH_HLEN + sizeof(*v4)) {
		*protocol = v4->protocol;
		return v4->ihl * 4;
	}
	if (ethernet->h_proto == htons(ETH_P_IPV6) && length >= ETH_HLEN + sizeof(*v6)) {
		*protocol = v6->nexthdr;
		return sizeof(*v6);
	}
	return 0;
}

/* Spreads flows as RSS does: the same flow to the same queue. */
static struct testnic_queue *queue_of(struct testnic_port *port, const void *frame, u32 length)
{
	u8 protocol = 0;
	u32 header = ip_header(frame, length, &protocol);
	u32 addresses = header == sizeof(struct ipv6hdr) ? 8 : 12;
	u32 hash;

	if (!header || ETH_HLEN + header + 4 > length)
		return &port->queues[0];
	hash = jhash(frame + ETH_HLEN + addresses, header - addresses, 0);
	if (protocol == IPPROTO_UDP || protocol == IPPROTO_TCP)
		hash = jhash(frame + ETH_HLEN + header, 4, hash);
	return &port->queues[hash % port->dev->real_num_rx_queues];
}

/* What cards that stamp PTP alone look at: the port (or type) of event messages, the message's type and its version. */
bool testnic_is_ptp_event(const void *frame, u32 length)
{
	const u8 *message = frame + ETH_HLEN;
	u8 protocol = 0;
	u32 header = ip_header(frame, length, &protocol);

	if (((const struct ethhdr *)frame)->h_proto != htons(ETH_P_1588)) {
		const struct udphdr *udp = frame + ETH_HLEN + header;

		if (!header || protocol != IPPROTO_UDP || ETH_HLEN + header + sizeof(*udp) + 2 > length)
			return false;
		if (udp->dest != htons(319))
			return false;
		message = (const u8 *)(udp + 1);
	}
	return (message[0] & 0xf) < 4 && (message[1] & 0xf) == 2;
}

void testnic_send(struct testnic_port *port, struct page *page, u32 length, u64 sent)
{
	struct testnic_frame *frame = page_address(page);
	struct testnic_port *peer = port->peer;
	struct testnic_queue *queue;
	unsigned long flags;

	if (!netif_running(peer->dev)) {
		put_page(page);
		return;
	}
	queue = queue_of(peer, testnic_data(page), length);
	frame->length = length;
	frame->sent = sent + port->knobs[KNOB_WIRE_DELAY_NS];
	frame->due = ktime_add_ns(ktime_get(), port->knobs[KNOB_WIRE_DELAY_NS]);
	spin_lock_irqsave(&queue->lock, flags);
	list_add_tail(&frame->list, &queue->wire);
	if (list_is_singular(&queue->wire))
		hrtimer_start(&queue->timer, frame->due, HRTIMER_MODE_ABS_HARD);
	spin_unlock_irqrestore(&queue->lock, flags);
}

/* Moves what is due from the wire into the ring, or nowhere when that is full, and raises the interrupt. */
enum hrtimer_restart testnic_wire_timer(struct hrtimer *timer)
{
	struct testnic_queue *queue = container_of(timer, struct testnic_queue, timer);
	enum hrtimer_restart restart = HRTIMER_NORESTART;
	struct testnic_frame *frame, *next;
	ktime_t now = ktime_get();

	spin_lock(&queue->lock);
	list_for_each_entry_safe(frame, next, &queue->wire, list) {
		if (ktime_after(frame->due, now)) {
			hrtimer_set_expires(timer, frame->due);
			restart = HRTIMER_RESTART;
			break;
		}
		list_del(&frame->list);
		if (queue->ringed >= queue->port->ring_size) {
			testnic_count(queue->port, COUNT_RING_FULL);
			put_page(virt_to_page(frame));
			continue;
		}
		testnic_stamp_arrival(queue->port, virt_to_page(frame));
		list_add_tail(&frame->list, &queue->ring);
		queue->ringed++;
	}
	spin_unlock(&queue->lock);
	napi_schedule(&queue->napi);
	return restart;
}

/* Takes a slot for the stamp of what leaves now, where one is wanted and free. */
static void stamp_departure(struct testnic_port *port, struct sk_buff *skb, bool ptp, u64 sent)
{
	struct testnic_slot *slot;
	unsigned long flags;

	if (!(skb_shinfo(skb)->tx_flags & SKBTX_HW_TSTAMP) || port->stamping.tx_type != HWTSTAMP_TX_ON)
		return;
	if (!port->knobs[KNOB_TRANSMIT_ALL] && !ptp)
		return;
	slot = kmalloc(sizeof(*slot), GFP_ATOMIC);
	if (!slot)
		return;
	spin_lock_irqsave(&port->slots_lock, flags);
	if (port->knobs[KNOB_SLOTS] && port->slots_taken >= port->knobs[KNOB_SLOTS]) {
		spin_unlock_irqrestore(&port->slots_lock, flags);
		testnic_count(port, COUNT_TX_STAMPS_SKIPPED);
		kfree(slot);
		return;
	}
	skb_shinfo(skb)->tx_flags |= SKBTX_IN_PROGRESS;
	*slot = (struct testnic_slot){
		.skb = skb_get(skb),
		.due = ktime_add_ns(ktime_get(), port->knobs[KNOB_STAMP_LATENCY_NS]),
		.stamp = testnic_clock_at(&port->clock, sent),
		.lost = testnic_loses(port, KNOB_LOSE_TRANSMIT, COUNT_TX_STAMPS),
	};
	testnic_count(port, COUNT_TX_STAMPS);
	list_add_tail(&slot->list, &port->slots);
	if (port->slots_taken++ == 0)
		hrtimer_start(&port->slots_timer, slot->due, HRTIMER_MODE_ABS_SOFT);
	spin_unlock_irqrestore(&port->slots_lock, flags);
}

/* The driver has read a stamp, or gave up on it: hands it to whoever asked, and the slot is free. */
enum hrtimer_restart testnic_slots_timer(struct hrtimer *timer)
{
	struct testnic_port *port = container_of(timer, struct testnic_port, slots_timer);
	struct testnic_slot *slot;
	unsigned long flags;

	for (;;) {
		struct skb_shared_hwtstamps stamps = {};

		spin_lock_irqsave(&port->slots_lock, flags);
		slot = list_first_entry_or_null(&port->slots, struct testnic_slot, list);
		if (!slot || ktime_after(slot->due, ktime_get()))
			break;
		list_del(&slot->list);
		port->slots_taken--;
		spin_unlock_irqrestore(&port->slots_lock, flags);

		stamps.hwtstamp = ns_to_ktime(slot->stamp);
		if (slot->lost)
			testnic_count(port, COUNT_TX_STAMPS_LOST);
		else
			skb_tstamp_tx(slot->skb, &stamps);
		dev_kfree_skb_any(slot->skb);
		kfree(slot);
	}
	if (slot)
		hrtimer_set_expires(timer, slot->due);
	spin_unlock_irqrestore(&port->slots_lock, flags);
	return slot ? HRTIMER_RESTART : HRTIMER_NORESTART;
}

void testnic_slots_purge(struct testnic_port *port)
{
	struct testnic_slot *slot, *next;

	hrtimer_cancel(&port->slots_timer);
	list_for_each_entry_safe(slot, next, &port->slots, list) {
		list_del(&slot->list);
		dev_kfree_skb_any(slot->skb);
		kfree(slot);
	}
	port->slots_taken = 0;
}

netdev_tx_t testnic_xmit(struct sk_buff *skb, struct net_device *dev)
{
	struct testnic_port *port = netdev_priv(dev);
	u32 length = skb->len;
	struct page *page;
	u64 sent;

	page = dev_alloc_page();
	if (!page || skb_copy_bits(skb, 0, testnic_data(page), length)) {
		if (page)
			put_page(page);
		DEV_STATS_INC(dev, tx_dropped);
		dev_kfree_skb_any(skb);
		return NETDEV_TX_OK;
	}
	/* Cards pad to the shortest frame of Ethernet. */
	if (length < ETH_ZLEN) {
		memset(testnic_data(page) + length, 0, ETH_ZLEN - length);
		length = ETH_ZLEN;
	}
	DEV_STATS_INC(dev, tx_packets);
	DEV_STATS_ADD(dev, tx_bytes, length);
	sent = ktime_get_raw_ns();
	stamp_departure(port, skb, testnic_is_ptp_event(testnic_data(page), length), sent);
	skb_tx_timestamp(skb);
	testnic_send(port, page, length, sent);
	dev_consume_skb_any(skb);
	return NETDEV_TX_OK;
}
