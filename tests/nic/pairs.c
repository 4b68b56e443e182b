// SPDX-License-Identifier: GPL-2.0
/* The devices: test0 and test1 joined, test2 and test3, and so on; both ends start in the namespace that loads the module. */
#include <linux/bpf.h>
#include <linux/filter.h>
#include <linux/module.h>
#include <linux/platform_device.h>

#include "testnic.h"

static unsigned int pairs = 1;
module_param(pairs, uint, 0444);
MODULE_PARM_DESC(pairs, "pairs of devices");

static struct platform_device *parent;
static struct net_device **devices;

static int open(struct net_device *dev)
{
	struct testnic_port *port = netdev_priv(dev);
	int error;

	for (int i = 0; i < TESTNIC_QUEUES; i++) {
		struct testnic_queue *queue = &port->queues[i];

		error = xdp_rxq_info_reg(&queue->xdp, dev, i, queue->napi.napi_id);
		if (!error)
			error = xdp_rxq_info_reg_mem_model(&queue->xdp, MEM_TYPE_PAGE_ORDER0, NULL);
		if (error) {
			while (i >= 0) {
				if (xdp_rxq_info_is_reg(&port->queues[i].xdp))
					xdp_rxq_info_unreg(&port->queues[i].xdp);
				i--;
			}
			return error;
		}
	}
	for (int i = 0; i < TESTNIC_QUEUES; i++)
		napi_enable(&port->queues[i].napi);
	netif_tx_start_all_queues(dev);
	if (netif_running(port->peer->dev)) {
		netif_carrier_on(dev);
		netif_carrier_on(port->peer->dev);
	}
	return 0;
}

static void drop(struct list_head *frames)
{
	struct testnic_frame *frame, *next;

	list_for_each_entry_safe(frame, next, frames, list) {
		list_del(&frame->list);
		put_page(virt_to_page(frame));
	}
}

static int stop(struct net_device *dev)
{
	struct testnic_port *port = netdev_priv(dev);

	netif_carrier_off(dev);
	netif_carrier_off(port->peer->dev);
	netif_tx_disable(dev);
	/* Nobody sends to a device that does not run; whoever saw it running is done after this. */
	synchronize_net();
	for (int i = 0; i < TESTNIC_QUEUES; i++) {
		struct testnic_queue *queue = &port->queues[i];

		hrtimer_cancel(&queue->timer);
		napi_disable(&queue->napi);
		drop(&queue->wire);
		drop(&queue->ring);
		queue->ringed = 0;
		xdp_rxq_info_unreg(&queue->xdp);
	}
	testnic_slots_purge(port);
	/* Reset with the card. */
	atomic_set(&port->latches_taken, 0);
	return 0;
}

static int xdp_xmit(struct net_device *dev, int count, struct xdp_frame **frames, u32 flags)
{
	struct testnic_port *port = netdev_priv(dev);
	int sent;

	for (sent = 0; sent < count; sent++) {
		struct page *page = dev_alloc_page();

		if (!page)
			break;
		memcpy(testnic_data(page), frames[sent]->data, frames[sent]->len);
		testnic_send(port, page, frames[sent]->len, ktime_get_raw_ns());
		xdp_return_frame(frames[sent]);
	}
	return sent;
}

static int bpf(struct net_device *dev, struct netdev_bpf *command)
{
	struct testnic_port *port = netdev_priv(dev);
	struct bpf_prog *old;

	if (command->command != XDP_SETUP_PROG)
		return -EOPNOTSUPP;
	old = xchg((__force struct bpf_prog **)&port->program, command->prog);
	if (old)
		bpf_prog_put(old);
	return 0;
}

static int hwtstamp_get(struct net_device *dev, struct kernel_hwtstamp_config *config)
{
	*config = ((struct testnic_port *)netdev_priv(dev))->stamping;
	return 0;
}

/* A card that can stamp all stamps all where PTP is asked for; one that cannot refuses. */
static int hwtstamp_set(struct net_device *dev, struct kernel_hwtstamp_config *config, struct netlink_ext_ack *extack)
{
	struct testnic_port *port = netdev_priv(dev);

	if (config->tx_type != HWTSTAMP_TX_OFF && config->tx_type != HWTSTAMP_TX_ON)
		return -ERANGE;
	switch (config->rx_filter) {
	case HWTSTAMP_FILTER_NONE:
		break;
	case HWTSTAMP_FILTER_PTP_V2_L4_EVENT ... HWTSTAMP_FILTER_PTP_V2_DELAY_REQ:
		config->rx_filter = port->knobs[KNOB_RECEIVE_ALL] ? HWTSTAMP_FILTER_ALL : HWTSTAMP_FILTER_PTP_V2_EVENT;
		break;
	case HWTSTAMP_FILTER_ALL:
		if (port->knobs[KNOB_RECEIVE_ALL])
			break;
		fallthrough;
	default:
		NL_SET_ERR_MSG(extack, "this card stamps PTP alone");
		return -ERANGE;
	}
	port->stamping = *config;
	/* Drivers read the registers empty when stamping is set. */
	atomic_set(&port->latches_taken, 0);
	return 0;
}

static const struct net_device_ops ops = {
	.ndo_open = open,
	.ndo_stop = stop,
	.ndo_start_xmit = testnic_xmit,
	.ndo_set_mac_address = eth_mac_addr,
	.ndo_validate_addr = eth_validate_addr,
	.ndo_bpf = bpf,
	.ndo_xdp_xmit = xdp_xmit,
	.ndo_hwtstamp_get = hwtstamp_get,
	.ndo_hwtstamp_set = hwtstamp_set,
};

static struct net_device *create(void)
{
	struct net_device *dev = alloc_etherdev_mqs(sizeof(struct testnic_port), TESTNIC_QUEUES, TESTNIC_QUEUES);
	struct testnic_port *port;

	if (!dev)
		return NULL;
	port = netdev_priv(dev);
	port->dev = dev;
	port->ring_size = 512;
	port->knobs[KNOB_RECEIVE_ALL] = 1;
	port->knobs[KNOB_TRANSMIT_ALL] = 1;
	port->knobs[KNOB_KFUNC] = 1;
	port->knobs[KNOB_STAMP_LATENCY_NS] = 20 * NSEC_PER_USEC;
	spin_lock_init(&port->slots_lock);
	INIT_LIST_HEAD(&port->slots);
	hrtimer_init(&port->slots_timer, CLOCK_MONOTONIC, HRTIMER_MODE_ABS_SOFT);
	port->slots_timer.function = testnic_slots_timer;
	for (int i = 0; i < TESTNIC_QUEUES; i++) {
		struct testnic_queue *queue = &port->queues[i];

		queue->port = port;
		spin_lock_init(&queue->lock);
		INIT_LIST_HEAD(&queue->wire);
		INIT_LIST_HEAD(&queue->ring);
		hrtimer_init(&queue->timer, CLOCK_MONOTONIC, HRTIMER_MODE_ABS_HARD);
		queue->timer.function = testnic_wire_timer;
		netif_napi_add(dev, &queue->napi, testnic_poll);
	}
	strscpy(dev->name, "test%d", IFNAMSIZ);
	SET_NETDEV_DEV(dev, &parent->dev);
	eth_hw_addr_random(dev);
	dev->netdev_ops = &ops;
	dev->ethtool_ops = &testnic_ethtool_ops;
	dev->xdp_metadata_ops = &testnic_xdp_metadata_ops;
	dev->xdp_features = NETDEV_XDP_ACT_BASIC | NETDEV_XDP_ACT_REDIRECT | NETDEV_XDP_ACT_NDO_XMIT;
	dev->sysfs_groups[0] = &testnic_knobs_group;
	dev->max_mtu = ETH_DATA_LEN;
	netif_carrier_off(dev);
	return dev;
}

static void destroy(void)
{
	for (int i = 0; devices && i < 2 * pairs; i++) {
		struct testnic_port *port;

		if (!devices[i])
			continue;
		port = netdev_priv(devices[i]);
		if (devices[i]->reg_state == NETREG_REGISTERED)
			unregister_netdev(devices[i]);
		testnic_clock_unregister(port);
	}
	for (int i = 0; devices && i < 2 * pairs; i++)
		if (devices[i])
			free_netdev(devices[i]);
	kfree(devices);
	platform_device_unregister(parent);
}

static int __init testnic_init(void)
{
	int error = -ENOMEM;

	parent = platform_device_register_simple("testnic", PLATFORM_DEVID_NONE, NULL, 0);
	if (IS_ERR(parent))
		return PTR_ERR(parent);
	devices = kcalloc(2 * pairs, sizeof(*devices), GFP_KERNEL);
	for (int i = 0; devices && i < 2 * pairs; i++) {
		devices[i] = create();
		if (!devices[i])
			goto undo;
	}
	for (int i = 0; devices && i < 2 * pairs; i++) {
		struct testnic_port *port = netdev_priv(devices[i]);

		port->peer = netdev_priv(devices[i ^ 1]);
		error = testnic_clock_register(port);
		if (!error)
			error = register_netdev(devices[i]);
		if (error)
			goto undo;
	}
	if (devices)
		return 0;
undo:
	destroy();
	return error;
}

static void __exit testnic_exit(void)
{
	destroy();
}

module_init(testnic_init);
module_exit(testnic_exit);
MODULE_DESCRIPTION("pairs of Ethernet devices with hardware clocks, for tests");
MODULE_LICENSE("GPL");
