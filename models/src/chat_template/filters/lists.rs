//! Filters of lists and dictionaries.

use minijinja::{
    Environment, Error, ErrorKind, State, Value, filters,
    value::{Rest, ValueKind},
};

use super::super::{
    arguments::{Args, bind_filter, integer, invalid, keywords, required, truth},
    print::to_text,
    text::join as join_texts,
};

pub(super) fn add(environment: &mut Environment) {
    environment.add_filter("batch", batch);
    environment.add_filter("d", default);
    environment.add_filter("default", default);
    environment.add_filter("dictsort", dictsort);
    environment.add_filter("groupby", groupby);
    environment.add_filter("join", join);
    environment.add_filter("list", list);
    environment.add_filter("map", map);
    environment.add_filter("max", |state: &State, args: Args| extreme("max", state, args));
    environment.add_filter("min", |state: &State, args: Args| extreme("min", state, args));
    environment.add_filter("slice", slice);
    environment.add_filter("sort", sort);
    environment.add_filter("sum", sum);
    environment.add_filter("unique", unique);
}

/// Items that a unit of fuel pays for: all of it, 256 MB.
const ITEMS_PER_FUEL: usize = 6;

/// An operand of `+`. A sum of lists, which is lazy, becomes a list, so that no sum is made of sums.
pub(super) fn addend(state: &State, value: Value) -> Result<Value, Error> {
    let is_lazy = matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable)
        && !value.is_tuple()
        && value.downcast_object_ref::<Vec<Value>>().is_none();
    if !is_lazy {
        return Ok(value);
    }
    let mut items = Vec::new();
    for item in value.try_iter()?.checked() {
        if items.len() % ITEMS_PER_FUEL == 0 {
            state.consume_fuel(1)?;
        }
        items.push(item?);
    }
    Ok(items.into())
}

/// An attribute as minijinja's filters take it: a path, in which numbers are indices.
fn path(attribute: Option<Value>) -> Option<Value> {
    attribute.filter(|value| !value.is_none()).map(|value| match value.as_str() {
        Some(_) => value,
        None => value.to_string().into(),
    })
}

/// A count that Python's `range` and slices take.
fn count(filter: &str, value: Option<Value>) -> Result<usize, Error> {
    let count = usize::try_from(integer(value, 0)?).unwrap_or(0);
    if count == 0 { Err(invalid(format!("{filter}: the count must be positive"))) } else { Ok(count) }
}

fn batch(state: &State, args: Args) -> Result<Value, Error> {
    let (value, [linecount, fill_with]) = bind_filter("batch", ["linecount", "fill_with"], args)?;
    filters::batch(state, value, count("batch", linecount)?, fill_with.filter(|fill| !fill.is_none()))
}

fn slice(state: &State, args: Args) -> Result<Value, Error> {
    let (value, [slices, fill_with]) = bind_filter("slice", ["slices", "fill_with"], args)?;
    filters::slice(state, value, count("slice", slices)?, fill_with.filter(|fill| !fill.is_none()))
}

fn default(args: Args) -> Result<Value, Error> {
    let (value, [other, boolean]) = bind_filter("default", ["default_value", "boolean"], args)?;
    let replaced = value.is_undefined() || (truth(boolean) && !value.is_true());
    Ok(if replaced { other.unwrap_or_else(|| "".into()) } else { value })
}

fn dictsort(args: Args) -> Result<Value, Error> {
    let names = ["case_sensitive", "by", "reverse"];
    let (value, options) = bind_filter("dictsort", names, args)?;
    if options[1].as_ref().is_some_and(|by| !matches!(by.as_str(), Some("key" | "value"))) {
        return Err(invalid("dictsort: `by` must be \"key\" or \"value\""));
    }
    filters::dictsort(&value, keywords(names, options))
}

fn groupby(state: &State, args: Args) -> Result<Value, Error> {
    let (value, [attribute, default, case_sensitive]) =
        bind_filter("groupby", ["attribute", "default", "case_sensitive"], args)?;
    let attribute = required("groupby", "attribute", path(attribute))?;
    let options = keywords(["default", "case_sensitive"], [default, case_sensitive]);
    // The list is read here, where each item costs fuel.
    filters::groupby(filters::list(state, value)?, attribute.as_str(), options)
}

fn join(state: &State, args: Args) -> Result<Value, Error> {
    let (items, [separator, attribute]) = bind_filter("join", ["d", "attribute"], args)?;
    let separator = separator.map_or(Ok(String::new()), |value| to_text(state, &value))?;
    let items = items.try_iter()?.checked().map(|item| match &attribute {
        Some(attribute) if !attribute.is_none() => self::attribute(&item?, attribute),
        _ => item,
    });
    join_texts(state, &separator, items)
}

/// An attribute by a path of names and indices.
fn attribute(item: &Value, attribute: &Value) -> Result<Value, Error> {
    let Some(path) = attribute.as_str() else { return item.get_item(attribute) };
    path.split('.').try_fold(item.clone(), |value, part| match part.parse::<i64>() {
        Ok(index) => value.get_item(&index.into()),
        Err(_) => value.get_attr(part),
    })
}

/// As Python's `list`, which takes no `none`.
fn list(state: &State, value: Value) -> Result<Value, Error> {
    if value.is_none() { Err(invalid("list: none is not iterable")) } else { filters::list(state, value) }
}

/// An attribute of each item, or each item filtered; minijinja's leaves out the filter's arguments by name.
fn map(state: &mut State, args: Args) -> Result<Vec<Value>, Error> {
    let args = args.into_values();
    let (value, args) = args.split_first().ok_or(ErrorKind::MissingArgument)?;
    let Some((name, args)) = args.split_first().filter(|(name, _)| !name.is_kwargs()) else {
        return filters::map(state, value.clone(), Rest(args.iter().cloned().map(Into::into).collect()));
    };
    let filter = name.as_str().ok_or_else(|| invalid("map: the filter's name must be a text"))?;
    let mut mapped = Vec::new();
    for item in value.try_iter()?.checked() {
        state.consume_fuel(1)?;
        let args: Vec<Value> =
            std::iter::once(item).chain(args.iter().cloned().map(Ok)).collect::<Result<_, _>>()?;
        mapped.push(state.apply_filter(filter, &args)?);
    }
    Ok(mapped)
}

fn extreme(filter: &'static str, state: &State, args: Args) -> Result<Value, Error> {
    let names = ["case_sensitive", "attribute"];
    let (value, [case_sensitive, attribute]) = bind_filter(filter, names, args)?;
    let options = keywords(names, [case_sensitive, path(attribute)]);
    if filter == "max" { filters::max(state, value, options) } else { filters::min(state, value, options) }
}

fn sort(state: &State, args: Args) -> Result<Value, Error> {
    let names = ["reverse", "case_sensitive", "attribute"];
    let (value, [reverse, case_sensitive, attribute]) = bind_filter("sort", names, args)?;
    filters::sort(state, value, keywords(names, [reverse, case_sensitive, path(attribute)]))
}

/// Sums numbers or lists. As in Python, texts are not summed: the time would be quadratic.
fn sum(state: &State, args: Args) -> Result<Value, Error> {
    let (items, [attribute, start]) = bind_filter("sum", ["attribute", "start"], args)?;
    if start.as_ref().is_some_and(|start| start.kind() == ValueKind::String) {
        return Err(invalid("sum: cannot sum strings"));
    }
    filters::sum(state, items, None, start, keywords(["attribute"], [path(attribute)]))
}

fn unique(state: &State, args: Args) -> Result<Value, Error> {
    let names = ["case_sensitive", "attribute"];
    let (value, [case_sensitive, attribute]) = bind_filter("unique", names, args)?;
    filters::unique(state, value, keywords(names, [case_sensitive, path(attribute)]))
}
