//! One report of runs that stand in different directories: gathered into one model, of which text, JSON and HTML are renderings.

mod case;
mod escalation;
mod files;
mod gather;
mod html;
mod judged;
mod ledger;
mod markup;
mod model;
mod paths;
mod sessions;
mod svg;
mod text;

pub(crate) use self::{case::Case, escalation::Escalation, gather::gather, html::html, model::Report, text::text};
