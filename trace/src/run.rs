//! The loop between tracer and network: sends what is due, hands over what came.

use crate::{
    Arrival, Error, Network, Plan, Traced, Tracer,
    probe::{self, Shape},
};

/// Traces the flows of a network by `plan`, one result a flow; `stop` ends it early.
///
/// # Errors
/// The network's.
pub fn trace(network: &mut dyn Network, plan: &Plan, stop: &dyn Fn() -> bool) -> Result<Vec<Traced>, Error> {
    let flows = network.flows();
    let key = plan.keys.as_ref().and_then(|keys| keys.find(0));
    let mut tracer = Tracer::new(plan.clone(), flows.clone());
    while let Some(due) = tracer.due().filter(|_| !stop()) {
        let now = network.now();
        if now < due {
            network.wait(due, &mut |at, arrival: Arrival| tracer.arrived(at, &arrival))?;
            continue;
        }
        let Some(probe) = tracer.take_due() else { break };
        let at = network.now();
        let wall = network.opened() + pathlab_record::Interval::from_nanos(at.as_nanos() as i64);
        let shape = Shape { size: plan.size, key, ask: plan.reverse.then_some(probe.ask) };
        let payload = probe::payload(&flows[probe.flow], probe.number, wall, &shape);
        let departure = network.send(probe.flow, probe.ttl, &payload)?;
        tracer.sent(&probe, at, departure);
        // Answers are never left to a later turn, however dense the schedule.
        let now = network.now();
        network.wait(now, &mut |at, arrival| tracer.arrived(at, &arrival))?;
    }
    let end = network.now() + plan.patience;
    while network.now() < end && !stop() && tracer.waits() {
        network.wait(end, &mut |at, arrival| tracer.arrived(at, &arrival))?;
    }
    Ok(tracer.finish())
}
