//! Arguments as Python binds them: by position, then by name.

use minijinja::{
    Error, ErrorKind, Value,
    value::{Kwargs, Rest, ValueOrKwargs},
};

/// What a filter or a function is called with.
pub(super) type Args = Rest<ValueOrKwargs>;

/// The arguments of a filter in the order of `names`, which leave out the first one: what is filtered.
pub(super) fn bind_filter<const N: usize>(
    filter: &str,
    names: [&str; N],
    args: Args,
) -> Result<(Value, [Option<Value>; N]), Error> {
    let mut args = args.into_values();
    if args.is_empty() {
        return Err(Error::from(ErrorKind::MissingArgument));
    }
    let value = args.remove(0);
    Ok((value, bind(filter, names, &args)?))
}

/// The arguments in the order of `names`.
pub(super) fn bind<const N: usize>(
    function: &str,
    names: [&str; N],
    args: &[Value],
) -> Result<[Option<Value>; N], Error> {
    let (positional, named) = split(args)?;
    let wrong = |message: String| Error::new(ErrorKind::TooManyArguments, format!("{function}: {message}"));
    if positional.len() > N {
        return Err(wrong(format!("takes at most {N} arguments")));
    }
    let mut bound = [const { None }; N];
    for (slot, value) in bound.iter_mut().zip(positional) {
        *slot = Some(value.clone());
    }
    for name in named.iter().flat_map(Kwargs::args) {
        let slot = names.iter().position(|known| *known == name).and_then(|index| bound.get_mut(index));
        match slot {
            Some(slot @ None) => *slot = named.as_ref().map(|named| named.get(name)).transpose()?,
            Some(Some(_)) => return Err(wrong(format!("two values for `{name}`"))),
            None => return Err(wrong(format!("no argument `{name}`"))),
        }
    }
    Ok(bound)
}

/// The arguments by position and those by name.
pub(super) fn split(args: &[Value]) -> Result<(&[Value], Option<Kwargs>), Error> {
    match args.split_last() {
        Some((last, positional)) if last.is_kwargs() => {
            Ok((positional, Some(Kwargs::try_from(last.clone())?)))
        }
        _ => Ok((args, None)),
    }
}

/// Those that were given, as keyword arguments.
pub(super) fn keywords<const N: usize>(names: [&str; N], values: [Option<Value>; N]) -> Kwargs {
    names.into_iter().zip(values).filter_map(|(name, value)| Some((name, value?))).collect()
}

/// An integer, or the default when it was not given.
pub(super) fn integer(value: Option<Value>, default: i64) -> Result<i64, Error> {
    value.map_or(Ok(default), i64::try_from)
}

/// As Python takes a condition.
pub(super) fn truth(value: Option<Value>) -> bool {
    value.is_some_and(|value| value.is_true())
}

/// An argument that must be given.
pub(super) fn required(function: &str, name: &str, value: Option<Value>) -> Result<Value, Error> {
    value.ok_or_else(|| Error::new(ErrorKind::MissingArgument, format!("{function}: `{name}` is required")))
}

/// A filter's input that must be a text already.
pub(super) fn text_of<'a>(filter: &str, value: &'a Value) -> Result<&'a str, Error> {
    match value.as_str() {
        Some(text) => Ok(text),
        None if value.is_undefined() => Ok(""),
        None => Err(invalid(format!("{filter}: needs a text, not {}", value.kind()))),
    }
}

/// What a template did that cannot be done.
pub(super) fn invalid(message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidOperation, message)
}
