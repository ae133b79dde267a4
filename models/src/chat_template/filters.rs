//! Jinja2's filters.
//!
//! Most are minijinja's, called with their arguments as Jinja2 names and orders them; what minijinja lacks, or does
//! otherwise, is here by subject. Each result that can be larger than its arguments is bounded by the fuel.

mod lists;
mod numbers;
mod text;
mod wordwrap;

use minijinja::{Environment, Error, Value};

use super::{
    arguments::{Args, invalid},
    dialect, json,
    print::to_text,
    printf,
};

/// What minijinja has and Jinja2 has not.
const FOREIGN: [&str; 5] = ["bool", "chain", "lines", "split", "zip"];

/// Filters for HTML, whose results would have to stay marked as safe; one that is for people; one that guesses.
const REFUSED: [&str; 7] = ["e", "escape", "forceescape", "pprint", "random", "urlize", "xmlattr"];

/// Puts the filters into an environment.
pub(super) fn add(environment: &mut Environment) {
    for name in FOREIGN {
        environment.remove_filter(name);
    }
    for name in REFUSED {
        let refuse = move |_: Args| -> Result<Value, Error> {
            Err(invalid(format!("the filter `{name}` is not supported")))
        };
        environment.add_filter(name, refuse);
    }
    environment.add_filter("format", printf::format_filter);
    environment.add_filter(dialect::PERCENT, printf::percent);
    environment.add_filter(dialect::ADDEND, lists::addend);
    environment.add_filter("tojson", json::tojson);
    environment.add_filter("fromjson", json::fromjson);
    environment.add_filter("string", to_text);
    lists::add(environment);
    numbers::add(environment);
    text::add(environment);
}
