//! Jinja2's tests, as in `x is iterable`: those that minijinja lacks or takes otherwise.

use minijinja::{Environment, Value, value::ValueKind};

/// What minijinja has and Jinja2 has not.
const FOREIGN: [&str; 4] = ["endingwith", "int", "safe", "startingwith"];

/// Puts the tests into an environment.
pub(super) fn add(environment: &mut Environment) {
    for name in FOREIGN {
        environment.remove_test(name);
    }
    environment.add_test("callable", is_callable);
    environment.add_test("iterable", is_iterable);
    environment.add_test("sequence", is_sequence);
}

/// Functions and macros; what is undefined as well, as in Jinja2.
fn is_callable(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Undefined | ValueKind::Plain)
}

/// minijinja iterates over `none`, as over nothing.
fn is_iterable(value: &Value) -> bool {
    !value.is_none() && value.try_iter().is_ok()
}

/// Whatever has a length and items. Slices and sums of lists are lists too, though minijinja makes them while they are
/// read.
fn is_sequence(value: &Value) -> bool {
    match value.kind() {
        ValueKind::Undefined | ValueKind::String | ValueKind::Seq | ValueKind::Map => true,
        ValueKind::Iterable => value.len().is_some(),
        _ => false,
    }
}
