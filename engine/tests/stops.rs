//! What ends a choice: stop strings, stop tokens and both in one, with the scripted model.

use crate::{
    Finish,
    streams::{collect, generate, request, start},
};

#[test]
fn stop_strings_are_found_across_token_borders() {
    let engine = start();
    let (text, ids, ..) = collect(&mut generate(&engine, request(&[1, 2], 30)));
    assert_eq!((text.len(), ids.len()), (30, 30), "a character per token: {text:?}");
    // It ends in the midst of a run of byte tokens, whose end it must not wait for.
    let end = (5..).find(|&end| ids[end + 2] % 2 == 0 && ids[end + 3] % 2 == 0).unwrap();
    let stop = &text[end..end + 3];
    assert_eq!(text.find(stop), Some(end));
    let mut with_stop = request(&[1, 2], 30);
    with_stop.stop.strings = vec!["not there".into(), stop.into()];
    let (cut, cut_ids, finish, _) = collect(&mut generate(&engine, with_stop.clone()));
    assert_eq!((cut.as_str(), finish), (&text[..end], Some(Finish::StopString(stop.into()))));
    assert_eq!(cut_ids, ids[..end + 3]);
    with_stop.stop.include_stop_string = true;
    assert_eq!(collect(&mut generate(&engine, with_stop.clone())).0, text[..end + 3]);
    with_stop.stop.min_tokens = end + 3;
    let (longer, ..) = collect(&mut generate(&engine, with_stop));
    assert!(longer.len() > end + 3, "the text of min_tokens tokens is not searched: {longer:?}");
}

#[test]
fn a_stop_string_that_names_a_special_token_stops_at_its_id() {
    let engine = start();
    let with_text = (1..).map(|token| request(&[token, 2], 90));
    // `@` is the special token's name, and that of no other.
    let mut with_stop = with_text.map(|request| (collect(&mut generate(&engine, request.clone())), request));
    let ((text, ids, ..), mut request) = with_stop
        .find(|((text, ..), _)| text[4..].find('@').is_some_and(|at| !text[..at + 4].contains('@')))
        .unwrap();
    let end = text.find('@').unwrap();
    request.stop.strings = vec!["not there".into(), "@".into()];
    for (skip_special_tokens, include_stop_string) in
        [(true, false), (true, true), (false, false), (false, true)]
    {
        request.skip_special_tokens = skip_special_tokens;
        request.stop.include_stop_string = include_stop_string;
        let (cut, cut_ids, finish, _) = collect(&mut generate(&engine, request.clone()));
        assert_eq!(cut, text[..end + usize::from(include_stop_string)]);
        assert_eq!(cut_ids, ids[..=end]);
        assert_eq!(finish, Some(Finish::StopString("@".into())));
    }
    request.stop.min_tokens = end + 1;
    let (_, longer, ..) = collect(&mut generate(&engine, request));
    assert!(longer.len() > end + 1, "as any stop token it cannot be sampled before min_tokens");
}

#[test]
fn end_and_stop_tokens_are_told_but_have_no_text() {
    let engine = start();
    let (text, ids, ..) = collect(&mut generate(&engine, request(&[1, 2], 30)));
    let stop = ids[7];
    let first = ids.iter().position(|&id| id == stop).unwrap();
    let mut with_stop = request(&[1, 2], 30);
    with_stop.stop.token_ids = vec![stop];
    let (cut, cut_ids, finish, _) = collect(&mut generate(&engine, with_stop));
    assert_eq!((cut.as_str(), finish), (&text[..first], Some(Finish::StopToken(stop))));
    assert_eq!(cut_ids, ids[..=first]);
}
