//! What reflectors answer to Class of Service and Direct Measurement (RFC 8972 §4.4, §4.5): DSCPs that were rewritten on the way, each way, and
//! packets that both ends counted.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::packet::Answers;
use crate::wire::{ClassOfService, DirectMeasurement};

/// Both, where they were asked for and answered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Services {
    /// How packets arrived at the reflector, and its replies here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class_of_service: Option<ClassCounts>,
    /// What both ends counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direct: Option<DirectCounts>,
}

/// One way of the path.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClassesSeen {
    /// Packets by the DSCP, 0 to 63, with which they arrived.
    pub dscp: BTreeMap<u8, u64>,
    /// Those that had left with another.
    pub rewritten: u64,
    /// Those that arrived with ECN 3: congestion was experienced.
    pub congestion: u64,
}

impl ClassesSeen {
    fn count(&mut self, sent: u8, dscp: u8, ecn: u8) {
        *self.dscp.entry(dscp).or_default() += 1;
        self.rewritten += u64::from(dscp != sent);
        self.congestion += u64::from(ecn == 3);
    }
}

/// Class of Service, over all sessions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClassCounts {
    /// Replies that answered. A duplicate is one more.
    pub answered: u64,
    /// To the reflector, as it says. Packets are taken to have left with the DSCP that they ask for.
    pub forward: ClassesSeen,
    /// Replies that the reflector would not send with the DSCP asked for (RP): it sends them with the one that it saw.
    pub refused: u64,
    /// Back, as this host's kernel says.
    #[serde(rename = "return")]
    pub back: ClassesSeen,
}

/// Direct Measurement: what both ends counted between the first and the newest answer of each session, summed. On each way the
/// difference was lost, or was on its way still.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirectCounts {
    /// Replies that answered.
    pub answered: u64,
    /// Packets that the probe sent.
    pub sent: u64,
    /// Of them, those that the reflector counted.
    pub reflector_received: u64,
    /// Replies that the reflector counted as sent.
    pub reflector_sent: u64,
    /// Replies that came here, late ones and duplicates too.
    pub received: u64,
}

/// Counts of one session.
#[derive(Clone, Copy, Debug, Default)]
struct Session {
    /// Replies so far.
    came: u32,
    first: Option<Counted>,
    newest: Option<Counted>,
}

#[derive(Clone, Copy, Debug)]
struct Counted {
    said: DirectMeasurement,
    came: u32,
}

/// The counts while a run goes on.
#[derive(Debug, Default)]
pub(super) struct Counting {
    classes: Option<ClassCounts>,
    answered: u64,
    /// Empty until Direct Measurement is answered.
    sessions: Vec<Session>,
}

impl Counting {
    /// A reply to `session` that came with this traffic class, as far as the kernel told.
    pub(super) fn reply(&mut self, session: usize, answers: &Answers, traffic_class: Option<u8>) {
        if let Some(class) = answers.class_of_service {
            self.class(class, traffic_class);
        }
        if self.sessions.len() <= session {
            self.sessions.resize(session + 1, Session::default());
        }
        let of = &mut self.sessions[session];
        of.came = of.came.wrapping_add(1);
        if let Some(said) = answers.direct {
            self.answered += 1;
            let counted = Counted { said, came: of.came };
            of.first.get_or_insert(counted);
            let ahead = |than: &Counted| since(said.sender_sent.get(), than.said.sender_sent.get());
            // a reply that was overtaken has older counts
            if of.newest.as_ref().is_none_or(|newest| ahead(newest) < 1 << 31) {
                of.newest = Some(counted);
            }
        }
    }

    fn class(&mut self, class: ClassOfService, traffic_class: Option<u8>) {
        let counts = self.classes.get_or_insert_default();
        counts.answered += 1;
        counts.forward.count(class.dscp1(), class.dscp2(), class.ecn());
        let refused = class.reverse_path() != 0;
        counts.refused += u64::from(refused);
        if let Some(arrived) = traffic_class {
            let sent = if refused { class.dscp2() } else { class.dscp1() };
            counts.back.count(sent, arrived >> 2, arrived & 3);
        }
    }

    pub(super) fn services(&self) -> Services {
        let spans = self.sessions.iter().filter_map(|of| of.first.zip(of.newest));
        let direct =
            spans.fold(DirectCounts { answered: self.answered, ..DirectCounts::default() }, |sum, (from, to)| {
                let [from_said, to_said] = [from.said, to.said];
                let grown = |of: fn(&DirectMeasurement) -> u32| u64::from(since(of(&to_said), of(&from_said)));
                DirectCounts {
                    answered: sum.answered,
                    sent: sum.sent + grown(|said| said.sender_sent.get()),
                    reflector_received: sum.reflector_received + grown(|said| said.reflector_received.get()),
                    reflector_sent: sum.reflector_sent + grown(|said| said.reflector_sent.get()),
                    received: sum.received + u64::from(since(to.came, from.came)),
                }
            });
        Services { class_of_service: self.classes.clone(), direct: (self.answered > 0).then_some(direct) }
    }
}

/// By how much a counter of 32 bits has grown.
fn since(now: u32, then: u32) -> u32 {
    now.wrapping_sub(then)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(asked: u8, seen: u8, refused: bool) -> Answers {
        let class_of_service = Some(ClassOfService::request(asked).answered(seen, refused));
        Answers { class_of_service, ..Answers::default() }
    }

    fn direct(sent: u32, received: u32, replied: u32) -> Answers {
        let direct = DirectMeasurement {
            sender_sent: sent.into(),
            reflector_received: received.into(),
            reflector_sent: replied.into(),
        };
        Answers { direct: Some(direct), ..Answers::default() }
    }

    #[test]
    fn each_way_tells_what_was_rewritten_on_it() {
        let mut counting = Counting::default();
        // as asked, both ways; bleached forward and refused; bleached on return, with congestion
        counting.reply(0, &class(46, 46 << 2, false), Some(46 << 2));
        counting.reply(0, &class(46, 0, true), Some(0));
        counting.reply(1, &class(46, 46 << 2 | 3, false), Some(3));
        counting.reply(1, &class(46, 46 << 2, false), None);
        counting.reply(1, &Answers::default(), Some(9));
        let seen = |dscp: &[(u8, u64)], rewritten, congestion| ClassesSeen {
            dscp: dscp.iter().copied().collect(),
            rewritten,
            congestion,
        };
        let expected = ClassCounts {
            answered: 4,
            forward: seen(&[(0, 1), (46, 3)], 1, 1),
            refused: 1,
            back: seen(&[(0, 2), (46, 1)], 1, 1),
        };
        assert_eq!(counting.services(), Services { class_of_service: Some(expected), direct: None });
    }

    #[test]
    fn counters_count_from_the_first_answer_to_the_newest_and_wrap() {
        let mut counting = Counting::default();
        let start = u32::MAX - 2;
        // the reflector knows the session from before; of ten packets it lost two, and two replies of eight were lost
        counting.reply(0, &direct(start, 1000, 900), None);
        for (number, received, replied) in [(3, 2, 2), (7, 5, 5), (6, 4, 4), (9, 7, 7), (10, 8, 8)] {
            counting.reply(0, &direct(start.wrapping_add(number), 1000 + received, 900 + replied), None);
        }
        counting.reply(0, &Answers::default(), None);
        counting.reply(2, &direct(1, 1, 1), None);
        let expected = DirectCounts { answered: 7, sent: 10, reflector_received: 8, reflector_sent: 8, received: 5 };
        assert_eq!(counting.services().direct, Some(expected));
        assert_eq!(Counting::default().services(), Services::default());
    }

    #[test]
    fn what_was_written_is_read() {
        let mut counting = Counting::default();
        counting.reply(0, &class(10, 40, false), Some(40));
        counting.reply(0, &direct(1, 1, 1), None);
        let services = counting.services();
        let text = serde_json::to_string(&services).expect("numbers");
        assert!(text.contains(r#""return":{"dscp":{"10":1}"#), "{text}");
        assert_eq!(serde_json::from_str::<Services>(&text).expect("as written"), services);
    }
}
