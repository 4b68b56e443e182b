//! Reads OpenMetrics 1.0 text by its rules, and panics where one is broken: every sample belongs to the family before it and has its type's
//! suffix, no family or sample comes twice, buckets are cumulative and end at `+Inf` with the count, the text ends with `# EOF`.

use std::collections::HashSet;

/// One line with a value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sample {
    pub(crate) name: String,
    pub(crate) labels: Vec<(String, String)>,
    pub(crate) value: f64,
}

/// A whole text.
#[derive(Debug)]
pub(crate) struct Exposition {
    pub(crate) samples: Vec<Sample>,
}

impl Exposition {
    pub(crate) fn parse(text: &str) -> Self {
        let body = text.strip_suffix("# EOF\n").expect("ends with # EOF");
        let (mut families, mut seen, mut samples) = (HashSet::new(), HashSet::new(), Vec::<Sample>::new());
        let (mut family, mut kind) = (String::new(), String::new());
        for line in body.lines() {
            if let Some(descriptor) = line.strip_prefix("# ") {
                let [word, name, rest] = descriptor.splitn(3, ' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
                match word {
                    "HELP" => {
                        assert!(families.insert(name.to_owned()), "{name} comes twice");
                        family = name.to_owned();
                        kind.clear();
                    }
                    "TYPE" => {
                        assert_eq!(name, family, "{line}");
                        kind = rest.to_owned();
                    }
                    "UNIT" => assert!(name == family && name.ends_with(&format!("_{rest}")), "{line}"),
                    other => panic!("{other}: {line}"),
                }
                continue;
            }
            let sample = sample(line);
            let suffix = sample.name.strip_prefix(&family).unwrap_or_else(|| panic!("{line} in {family}"));
            let suffixes: &[&str] = match kind.as_str() {
                "counter" => &["_total"],
                "gauge" => &[""],
                "info" => &["_info"],
                "histogram" => &["_sum", "_count", "_bucket"],
                other => panic!("type {other} of {family}"),
            };
            assert!(suffixes.contains(&suffix), "{line} in a {kind}");
            assert!(kind == "gauge" || sample.value >= 0.0, "{line}");
            assert!(seen.insert((sample.name.clone(), sample.labels.clone())), "{line} comes twice");
            samples.push(sample);
        }
        let exposition = Self { samples };
        exposition.check_histograms();
        exposition
    }

    fn check_histograms(&self) {
        for count in self.samples.iter().filter(|sample| sample.name.ends_with("_seconds_count")) {
            let name = count.name.replace("_count", "_bucket");
            let mine = |sample: &&Sample| {
                sample.name == name && sample.labels.iter().filter(|(label, _)| label != "le").eq(count.labels.iter())
            };
            let buckets: Vec<(f64, f64)> = self
                .samples
                .iter()
                .filter(mine)
                .map(|sample| {
                    let (_, le) = sample.labels.iter().find(|(label, _)| label == "le").expect("le");
                    (le.parse().expect("a bound"), sample.value)
                })
                .collect();
            assert!(buckets.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1), "{buckets:?}");
            assert_eq!(buckets.last(), Some(&(f64::INFINITY, count.value)), "{}", count.name);
        }
    }

    /// Samples of that name.
    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Sample> {
        self.samples.iter().filter(move |sample| sample.name == name)
    }

    /// The value of the first sample of that name with these labels among its own.
    pub(crate) fn find(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let has = |sample: &&Sample| {
            let all = |(label, value): &(&str, &str)| sample.labels.contains(&((*label).into(), (*value).into()));
            labels.iter().all(all)
        };
        self.all(name).find(has).map(|sample| sample.value)
    }
}

/// `name{label="value",...} value`; no label of ours has a quote or a backslash.
fn sample(line: &str) -> Sample {
    let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line}"));
    let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
    let well = |octet: u8| octet.is_ascii_lowercase() || octet.is_ascii_digit() || octet == b'_';
    assert!(!name.is_empty() && name.bytes().all(well), "{line}");
    let labels = labels.strip_suffix('}').unwrap_or_else(|| panic!("{line}"));
    let label = |pair: &str| {
        let (label, value) = pair.split_once('=').unwrap_or_else(|| panic!("{line}"));
        let value =
            value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or_else(|| panic!("{line}"));
        assert!(label.bytes().all(well) && !value.contains(['"', '\\']), "{line}");
        (label.to_owned(), value.to_owned())
    };
    let labels = labels.split(',').filter(|pair| !pair.is_empty()).map(label).collect();
    Sample { name: name.into(), labels, value: value.parse().unwrap_or_else(|_| panic!("{line}")) }
}
