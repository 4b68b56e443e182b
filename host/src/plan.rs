//! What is to be changed, as exact commands with their inverse, and what cannot be changed with the reason: before anything happens.

use std::collections::BTreeSet;

use pathlab_guard::{Changed, Error, Journal, Moment, Setting, ethtool::Group, even_table};
use serde::{Deserialize, Serialize};

use crate::{
    audit::{Audit, Entry, State},
    change::Step,
    source::Source,
};

/// What somebody wants changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wish {
    /// What the rule of that number or name finds.
    Rule(String),
    /// One command, in the words of an audit.
    Command(String),
}

/// A plan: what can be set, what cannot, and what else should be known before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// [`Plan::SCHEMA`].
    pub schema: String,
    /// In the order in which it is carried out.
    pub changes: Vec<Planned>,
    /// What is not.
    pub refused: Vec<Refused>,
    /// Programs that have their hands on the same settings.
    pub noticed: Vec<String>,
}

/// One setting to change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Planned {
    /// What asks for it: a rule's name, or nothing where a person does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// What.
    pub setting: Setting,
    /// The value that it gets.
    pub to: String,
    /// The value that it has; it is only changed while it has it.
    pub now: String,
    /// The commands that do the same.
    pub fix: Vec<String>,
    /// The commands that bring back what is now.
    pub undo: Vec<String>,
}

/// Something that is not changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Refused {
    /// The commands.
    pub fix: Vec<String>,
    /// Why not.
    pub because: String,
}

/// Why a wish that is fulfilled is not carried out.
const SO_ALREADY: &str = "it is so already";

impl Refused {
    /// Nothing stands in the way: there is nothing to do.
    pub fn is_so_already(&self) -> bool {
        self.because == SO_ALREADY
    }
}

/// How a plan looks at settings; a test has its own.
pub(crate) trait Look {
    /// The present value.
    fn now(&self, setting: &Setting) -> Result<String, String>;
    /// Why it cannot be set.
    fn check(&self, setting: &Setting, to: &str) -> Result<(), String>;
}

/// The running kernel.
struct Kernel;

impl Look for Kernel {
    fn now(&self, setting: &Setting) -> Result<String, String> {
        setting.read().map_err(|error| format!("cannot be read: {error}"))
    }

    fn check(&self, setting: &Setting, to: &str) -> Result<(), String> {
        setting.check(to)
    }
}

impl Plan {
    /// A plan that changes nothing.
    pub fn nothing() -> Self {
        Self { schema: Self::SCHEMA.into(), changes: Vec::new(), refused: Vec::new(), noticed: Vec::new() }
    }

    /// Of the document.
    pub const SCHEMA: &str = "pathlab.host.plan/1";

    /// Plans for this host what `wishes` say of `audit`; all findings where nobody wishes anything. The same wishes on the same host give the same
    /// plan, and nothing is written.
    ///
    /// # Errors
    /// A wish that names no rule, or no command that is known, as a sentence.
    pub fn new(audit: &Audit, source: &dyn Source, wishes: &[Wish]) -> Result<Self, String> {
        let services = source.read("services").unwrap_or_default();
        Self::of(audit, &services, wishes, &Kernel)
    }

    fn of(audit: &Audit, services: &str, wishes: &[Wish], look: &dyn Look) -> Result<Self, String> {
        let mut plan = Self::nothing();
        let entries = |wanted: &dyn Fn(&Entry) -> bool| -> Vec<Entry> {
            audit.entries.iter().filter(|entry| entry.state == State::Finding && wanted(entry)).cloned().collect()
        };
        if wishes.is_empty() {
            plan.enter_findings(&entries(&|_| true), look);
        }
        for wish in wishes {
            match wish {
                Wish::Rule(rule) => {
                    let named = |entry: &Entry| entry.name == rule || entry.rule.to_string() == *rule;
                    if !audit.entries.iter().any(named) {
                        return Err(format!("`{rule}` is no rule; `pathlab host audit` lists their numbers and names"));
                    }
                    let found = entries(&named);
                    if found.is_empty() {
                        let why = audit.entries.iter().find(|entry| named(entry)).map(|entry| entry.because.clone());
                        let because = format!("rule {rule} finds nothing: {}", why.unwrap_or_default());
                        plan.refused.push(Refused { fix: Vec::new(), because });
                    }
                    plan.enter_findings(&found, look);
                }
                Wish::Command(command) => {
                    let (setting, to) = Setting::parse(command)?;
                    plan.enter(None, &setting, to, look);
                }
            }
        }
        plan.changes.sort_by_key(|planned| rank(&planned.setting));
        plan.refuse_what_goes_stale();
        plan.notice(services);
        Ok(plan)
    }

    fn enter_findings(&mut self, found: &[Entry], look: &dyn Look) {
        for entry in found {
            let Some(change) = &entry.change else {
                let because = format!("{} {}: {}: no command mends that", entry.subject, entry.name, entry.because);
                self.refused.push(Refused { fix: Vec::new(), because });
                continue;
            };
            for step in &change.steps {
                match step {
                    Step::Set { setting, to, .. } => self.enter(Some(entry.name), setting, to.clone(), look),
                    Step::ByHand { .. } => {
                        let because = "another program's business: by hand".to_owned();
                        self.refused.push(Refused { fix: step.fix(), because });
                    }
                }
            }
        }
    }

    fn enter(&mut self, rule: Option<&str>, setting: &Setting, to: String, look: &dyn Look) {
        match whole(setting, to.clone(), look) {
            Err(because) => self.refused.push(Refused { fix: setting.commands(&to), because }),
            Ok((to, now)) => {
                if self.changes.iter().any(|earlier| earlier.setting == *setting && earlier.to == to) {
                    return;
                }
                let twice = self
                    .changes
                    .iter()
                    .any(|earlier| earlier.setting == *setting && !matches!(setting, Setting::Parameters { .. }));
                let fix = setting.commands(&to);
                if twice {
                    let because = "another change of this plan sets it already, to another value".into();
                    self.refused.push(Refused { fix, because });
                    return;
                }
                let undo = setting.commands(&now);
                let rule = rule.map(str::to_owned);
                self.changes.push(Planned { rule, setting: setting.clone(), to, now, fix, undo });
            }
        }
    }

    /// What was reckoned for the present queues is wrong once there are others.
    fn refuse_what_goes_stale(&mut self) {
        let recounted: BTreeSet<String> = self
            .changes
            .iter()
            .filter(|planned| matches!(planned.setting, Setting::Parameters { group: Group::Channels, .. }))
            .filter_map(|planned| planned.setting.port().map(str::to_owned))
            .collect();
        let stale = |planned: &Planned| match &planned.setting {
            Setting::File { path } => {
                planned.setting.port().is_some_and(|port| recounted.contains(port)) && path.contains("/queues/")
            }
            Setting::Rss { port } | Setting::Qdisc { port } => recounted.contains(port),
            Setting::Irq { .. } => !recounted.is_empty(),
            _ => false,
        };
        let (stale, kept) = std::mem::take(&mut self.changes).into_iter().partition(stale);
        self.changes = kept;
        for Planned { fix, .. } in stale {
            let because = "the number of queues changes first: plan again after that".into();
            self.refused.push(Refused { fix, because });
        }
    }

    fn notice(&mut self, services: &str) {
        let runs = |name: &str| services.lines().any(|service| service == name);
        if runs("irqbalance") && self.changes.iter().any(|planned| matches!(planned.setting, Setting::Irq { .. })) {
            self.noticed
                .push("irqbalance runs and moves interrupts again within seconds: stop it first, or ban these".into());
        }
        if runs("tuned") && !self.changes.is_empty() {
            self.noticed.push("tuned runs and sets what its profile names anew when it starts".into());
        }
    }

    /// Reads a plan that [`Plan`] wrote as JSON. The commands in it are for people; what is set is the typed setting.
    ///
    /// # Errors
    /// What is wrong with it, as a sentence.
    pub fn from_json(text: &str) -> Result<Self, String> {
        let plan: Self =
            serde_json::from_str(text).map_err(|error| format!("no plan of `host plan --json`: {error}"))?;
        if plan.schema != Self::SCHEMA {
            return Err(format!("schema {}, where {} is understood", plan.schema, Self::SCHEMA));
        }
        for Planned { setting, to, fix, .. } in &plan.changes {
            if *fix != setting.commands(to) {
                return Err(format!(
                    "the commands of {} are not those of its setting",
                    setting.commands(to).join("; ")
                ));
            }
        }
        Ok(plan)
    }

    /// Looks at each setting again: whether it can still be set, and still is what it was.
    ///
    /// # Errors
    /// The first that is not, as a sentence.
    pub fn check(&self) -> Result<(), String> {
        for planned in &self.changes {
            let command = planned.fix.join("; ");
            planned.setting.check(&planned.to).map_err(|because| format!("`{command}`: {because}"))?;
            let now = Kernel.now(&planned.setting).map_err(|because| format!("`{command}`: {because}"))?;
            if !planned.setting.alike(&now, &planned.now) {
                return Err(format!(
                    "`{command}`: it was {} when this was planned and is {now}: plan again",
                    planned.now
                ));
            }
        }
        Ok(())
    }

    /// Carries it out in the calling thread, each change noted in the journal before it is made. What came of each is returned; on an error the
    /// journal knows all that was done, and is the caller's to undo.
    ///
    /// # Errors
    /// [`Error`] of the step that failed.
    pub fn apply(&self, journal: &mut Journal, mut watch: impl FnMut(usize, Moment)) -> Result<Vec<Changed>, Error> {
        let mut made = Vec::new();
        for (at, planned) in self.changes.iter().enumerate() {
            let changed = Changed::read(planned.setting.clone(), &planned.to)?;
            made.push(changed.make(journal, |moment| watch(at, moment))?);
        }
        Ok(made)
    }
}

/// The value whole, and the present one as far as it is asked for; or why not.
fn whole(setting: &Setting, to: String, look: &dyn Look) -> Result<(String, String), String> {
    let to = match to.strip_prefix("equal ").map(str::parse) {
        Some(Ok(queues)) if queues > 0 => even_table(look.now(setting)?.split_whitespace().count(), queues),
        Some(_) => return Err(format!("{to}: no number of queues")),
        None => to,
    };
    look.check(setting, &to)?;
    let now = look.now(setting)?;
    if setting.alike(&now, &to) {
        return Err(SO_ALREADY.into());
    }
    let Setting::Parameters { .. } = setting else { return Ok((to, now)) };
    let words: Vec<&str> = now.split_whitespace().collect();
    let named: Vec<&str> = to.split_whitespace().step_by(2).collect();
    let asked = words.chunks(2).filter(|pair| named.contains(&pair[0])).map(|pair| pair.join(" "));
    let now = asked.collect::<Vec<_>>().join(" ");
    Ok((to, now))
}

/// What resets other things comes first.
fn rank(setting: &Setting) -> u8 {
    match setting {
        Setting::Parameters { group: Group::Channels, .. } => 0,
        Setting::Parameters { group: Group::Rings, .. } => 1,
        Setting::Parameters { group: Group::Coalesce, .. } => 2,
        Setting::Rss { .. } | Setting::FlowHash { .. } => 3,
        Setting::Feature { .. } => 4,
        Setting::Qdisc { .. } => 5,
        Setting::Irq { .. } => 6,
        Setting::File { .. } => 7,
        Setting::Sysctl { .. } => 8,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// Values by command of the setting; what is not among them cannot be set.
    struct Fake(BTreeMap<String, String>);

    impl Look for Fake {
        fn now(&self, setting: &Setting) -> Result<String, String> {
            self.0.get(&format!("{setting:?}")).cloned().ok_or_else(|| "not there".into())
        }

        fn check(&self, setting: &Setting, _: &str) -> Result<(), String> {
            self.now(setting).map(drop)
        }
    }

    fn planned(commands: &[&str], now: &[(&str, &str)], services: &str) -> Plan {
        let values = now.iter().map(|(command, value)| {
            let (setting, _) = Setting::parse(command).expect("a command");
            (format!("{setting:?}"), (*value).to_owned())
        });
        let wishes: Vec<Wish> = commands.iter().map(|command| Wish::Command((*command).to_owned())).collect();
        Plan::of(&Audit { entries: Vec::new() }, services, &wishes, &Fake(values.collect())).expect("known commands")
    }

    #[test]
    fn each_command_stands_beside_its_inverse_and_what_resets_others_comes_first() {
        let plan = planned(
            &["sysctl -w net.core.rmem_max=4194304", "ethtool -G eth0 rx 1024", "ethtool -X eth0 equal 2"],
            &[
                ("sysctl -w net.core.rmem_max=1", "212992"),
                ("ethtool -G eth0 rx 1", "rx 256 tx 512"),
                ("ethtool -X eth0 equal 1", "0 0 0 0"),
            ],
            "",
        );
        let lines: Vec<(String, String)> =
            plan.changes.iter().map(|planned| (planned.fix.join("; "), planned.undo.join("; "))).collect();
        let expected = [
            ("ethtool -G eth0 rx 1024", "ethtool -G eth0 rx 256"),
            ("ethtool -X eth0 equal 2", "ethtool -X eth0 equal 1"),
            ("sysctl -w net.core.rmem_max=4194304", "sysctl -w net.core.rmem_max=212992"),
        ];
        assert_eq!(lines, expected.map(|(fix, undo)| (fix.to_owned(), undo.to_owned())));
        assert!(plan.refused.is_empty() && plan.noticed.is_empty());
        let text = serde_json::to_string(&plan).expect("plain data");
        assert_eq!(Plan::from_json(&text), Ok(plan));
        let forged = text.replace("ethtool -G eth0 rx 1024", "ethtool -G eth0 rx 2048");
        assert!(Plan::from_json(&forged).is_err(), "the command that is read is the one that is done");
    }

    #[test]
    fn what_is_so_already_or_not_there_or_stale_is_refused_with_the_reason() {
        let plan = planned(
            &[
                "ethtool -G eth0 rx 256",
                "ethtool -K eth0 rx-lro off",
                "ethtool -L eth0 combined 4",
                "echo f > /sys/class/net/eth0/queues/rx-0/rps_cpus",
                "echo f > /sys/class/net/eth1/queues/rx-0/rps_cpus",
                "echo 3 > /sys/class/net/eth1/queues/rx-0/rps_cpus",
            ],
            &[
                ("ethtool -G eth0 rx 1", "rx 256 tx 512"),
                ("ethtool -L eth0 combined 1", "combined 2"),
                ("echo 0 > /sys/class/net/eth0/queues/rx-0/rps_cpus", "00"),
                ("echo 0 > /sys/class/net/eth1/queues/rx-0/rps_cpus", "00"),
            ],
            "tuned\nirqbalance\n",
        );
        let reasons: Vec<&str> = plan.refused.iter().map(|refused| refused.because.as_str()).collect();
        assert_eq!(plan.changes.len(), 2, "{plan:?}");
        for (reason, words) in reasons.iter().zip(["so already", "not there", "to another value", "changes first"]) {
            assert!(reason.contains(words), "{reasons:?}");
        }
        assert_eq!(plan.noticed.len(), 1, "no interrupt is moved, so irqbalance does not matter: {:?}", plan.noticed);
    }

    #[test]
    fn a_rule_that_is_none_is_said() {
        let error = Plan::of(&Audit { entries: Vec::new() }, "", &[Wish::Rule("rings".into())], &Fake(BTreeMap::new()));
        assert!(error.expect_err("no such rule").contains("is no rule"));
    }
}
